/* SPDX-License-Identifier: Apache-2.0
 *
 * Moves a body between two sockets that Python lends. A thread of the relay serves the pump; its owner waits for an
 * eventfd.
 *
 * A pump owns duplicates of the sockets. Its lock is held while bytes move. Its thread frees its memory at the end of a
 * turn, so that an event that was already fetched never names freed memory.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dial.h"
#include "events.h"
#include "pump.h"

#define PUMP_DESCRIPTORS 3 /* two sockets and an eventfd */

struct relay_pump {
	struct relay_pump *next;          /* in the list `started` or `dead` */
	struct relay_pump *next_finished; /* in the list `finished`; a pump can be in `started` at the same time */
	struct relay_pump *next_ready;    /* in the list `ready` */
	struct pumps *pumps;
	struct container *container;
	pthread_mutex_t lock;
	int from, to, done;
	struct direction direction;
	struct buffers buffers;
	int error;
	uint8_t has_ended, is_ready;
};

static void close_sockets(struct relay_pump *pump)
{
	close_watched(pump->pumps->epoll, pump->from);
	close_watched(pump->pumps->epoll, pump->to);
	pump->from = pump->to = -1;
}

static void pump_free(struct relay_pump *pump)
{
	close_sockets(pump);
	if (pump->done >= 0)
		close(pump->done);
	if (pump->container) {
		places_give(&pump->container->descriptors, PUMP_DESCRIPTORS);
		container_release(pump->container);
	}
	pthread_mutex_destroy(&pump->lock);
	free(pump);
}

/* ---- called by the owner ---- */

struct relay_pump *pump_start(struct pumps *pumps, struct container *container, int from, int to, uint64_t limit)
{
	if (!places_take(&container->descriptors, PUMP_DESCRIPTORS)) {
		errno = EDQUOT;
		return NULL;
	}
	struct relay_pump *pump = calloc(1, sizeof *pump);
	if (!pump) {
		places_give(&container->descriptors, PUMP_DESCRIPTORS);
		return NULL;
	}
	pthread_mutex_init(&pump->lock, NULL);
	pump->pumps = pumps;
	pump->from = fcntl(from, F_DUPFD_CLOEXEC, 0);
	pump->to = fcntl(to, F_DUPFD_CLOEXEC, 0);
	pump->done = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	direction_init(&pump->direction, limit);
	pump->direction.is_shut = 1; /* the source's end isn't forwarded: the owner closes the sink */
	if (pump->from < 0 || pump->to < 0 || pump->done < 0) {
		int error = errno;
		pump_free(pump);
		places_give(&container->descriptors, PUMP_DESCRIPTORS);
		errno = error;
		return NULL;
	}
	pump->container = container;
	pthread_mutex_lock(&pumps->lock);
	pump->next = pumps->started;
	pumps->started = pump;
	pthread_mutex_unlock(&pumps->lock);
	signal_fd(pumps->wake);
	return pump;
}

int relay_pump_fd(struct relay_pump *pump)
{
	return pump->done;
}

uint64_t relay_pump_moved(struct relay_pump *pump)
{
	pthread_mutex_lock(&pump->lock);
	uint64_t moved = pump->direction.moved;
	pthread_mutex_unlock(&pump->lock);
	return moved;
}

uint64_t relay_pump_finish(struct relay_pump *pump, int *error)
{
	struct pumps *pumps = pump->pumps;
	pthread_mutex_lock(&pump->lock);
	uint64_t moved = pump->direction.moved;
	*error = pump->error;
	pump->has_ended = 1;
	close_sockets(pump);
	pthread_mutex_unlock(&pump->lock);
	pthread_mutex_lock(&pumps->lock);
	pump->next_finished = pumps->finished;
	pumps->finished = pump;
	pthread_mutex_unlock(&pumps->lock); /* the thread may free the pump from here on */
	signal_fd(pumps->wake);
	return moved;
}

/* ---- called by the thread ---- */

static void end(struct relay_pump *pump, int error)
{
	pump->error = error;
	pump->has_ended = 1;
	close_sockets(pump);
	signal_fd(pump->done);
}

static void move_some(struct pumps *pumps, struct relay_pump *pump)
{
	struct direction *direction = &pump->direction;
	if (buffers_fit(pump->container, &pump->buffers, pump->from, pump->to))
		direction_limit(direction, pump->buffers.size);
	enum moved moved = move(pumps->workspace, pump->container, pump->from, pump->to, direction);
	if (moved == MOVED_BROKEN) {
		end(pump, direction->error);
	} else if ((direction->allowed == 0 || direction->has_ended) && direction_is_empty(direction)) {
		end(pump, 0);
	} else if (moved == MOVED_MORE && !pump->is_ready) {
		pump->is_ready = 1;
		pump->next_ready = pumps->ready;
		pumps->ready = pump;
	}
	buffers_count(pump->container, &pump->buffers, !direction_is_empty(direction));
}

/* Returns the pending error of a socket, or 0 if neither has one. */
static int error_of(const struct relay_pump *pump)
{
	int error = 0;
	socklen_t size = sizeof error;
	if (getsockopt(pump->from, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error)
		return error;
	return getsockopt(pump->to, SOL_SOCKET, SO_ERROR, &error, &size) == 0 ? error : errno;
}

static void serve(struct pumps *pumps, struct relay_pump *pump, int is_broken)
{
	pthread_mutex_lock(&pump->lock);
	int error = is_broken && !pump->has_ended ? error_of(pump) : 0;
	if (error)
		end(pump, error); /* only this reports a sink that fails while the source is silent */
	else if (!pump->has_ended)
		move_some(pumps, pump);
	pthread_mutex_unlock(&pump->lock);
}

void pump_event(struct pumps *pumps, uint64_t cookie, int is_broken)
{
	serve(pumps, (struct relay_pump *)(uintptr_t)(cookie & ~(uint64_t)COOKIE_PUMP), is_broken);
}

void pumps_serve_ready(struct pumps *pumps)
{
	struct relay_pump *pump = pumps->ready;
	pumps->ready = NULL;
	while (pump) {
		struct relay_pump *next = pump->next_ready;
		pump->is_ready = 0;
		serve(pumps, pump, 0);
		pump = next;
	}
}

static void begin(struct pumps *pumps, struct relay_pump *pump)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
	                            .data.u64 = (uint64_t)(uintptr_t)pump | COOKIE_PUMP};
	pthread_mutex_lock(&pump->lock);
	if (!pump->has_ended) {
		if (epoll_ctl(pumps->epoll, EPOLL_CTL_ADD, pump->from, &event) < 0 ||
		    epoll_ctl(pumps->epoll, EPOLL_CTL_ADD, pump->to, &event) < 0)
			end(pump, errno);
		else
			move_some(pumps, pump);
	}
	pthread_mutex_unlock(&pump->lock);
}

void pumps_take(struct pumps *pumps)
{
	pthread_mutex_lock(&pumps->lock);
	struct relay_pump *started = pumps->started, *finished = pumps->finished;
	pumps->started = pumps->finished = NULL;
	pthread_mutex_unlock(&pumps->lock);
	for (; started; started = started->next)
		begin(pumps, started);
	for (; finished; finished = finished->next_finished) {
		finished->next = pumps->dead;
		pumps->dead = finished;
	}
}

/* A dead pump that is still in the list of ready pumps is freed in the next turn. */
void pumps_bury(struct pumps *pumps)
{
	for (struct relay_pump **link = &pumps->dead; *link;) {
		struct relay_pump *pump = *link;
		if (pump->is_ready) {
			link = &pump->next;
			continue;
		}
		*link = pump->next;
		buffers_count(pump->container, &pump->buffers, 0);
		direction_free(pumps->workspace, pump->container, &pump->direction);
		pump_free(pump);
	}
}
