/* SPDX-License-Identifier: Apache-2.0
 *
 * A thread of the relay: its epoll, its turns, its flows' deadlines.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "flow.h"
#include "route.h"

#define TICK 0.1          /* seconds between two looks at every flow's deadlines */
#define BATCH 256         /* epoll events a turn */
/* Cookies below the first address that malloc() gives. A listener's is that of its capture. */
#define COOKIE_WAKE 8
#define COOKIE_LISTENER(capture) (16 + 8 * (uint64_t)(capture))
#define COOKIE_FLOW COOKIE_LISTENER(CAPTURES_MAX)

/* Frees what died, after every event of the turn has been looked at. What still stands in the list of ready ones goes with the
 * next turn. */
static void bury(struct thread *thread)
{
	for (struct flow **link = &thread->dead; *link;) {
		struct flow *flow = *link;
		if (flow->is_ready) {
			link = &flow->next;
			continue;
		}
		*link = flow->next;
		container_release(flow->container);
		free(flow->host);
		free(flow->name);
		free(flow);
	}
}

static void tick(struct thread *thread, struct flow *flows)
{
	for (struct flow *flow = flows, *next; flow; flow = next) {
		next = flow->next;
		flow_tick(thread, flow);
	}
}

/* Somebody has a pump, a name that flows may wait for, or the end of a container. */
static void woken(struct thread *thread, double *next_tick)
{
	pumps_take(thread);
	tick(thread, thread->resolving);
	if (atomic_exchange(&thread->has_lost_container, 0))
		*next_tick = thread->now;
}

static void serve_ready(struct thread *thread)
{
	struct flow *flow = thread->ready;
	thread->ready = NULL;
	while (flow) {
		struct flow *next = flow->next_ready;
		flow->is_ready = 0;
		if (flow->stage != STAGE_DEAD)
			flow_service(thread, flow, 0);
		flow = next;
	}
}

/* One socket's event. */
static void serve_event(struct thread *thread, const struct epoll_event *event)
{
	uintptr_t address = (uintptr_t)(event->data.u64 & ~(uint64_t)(COOKIE_UPSTREAM | COOKIE_PUMP));
	if (event->data.u64 & COOKIE_PUMP) {
		pump_service(thread, (struct relay_pump *)address, (event->events & EPOLLERR) != 0);
		return;
	}
	struct flow *flow = (struct flow *)address;
	int is_upstream = event->data.u64 & COOKIE_UPSTREAM, is_broken = (event->events & EPOLLERR) != 0;
	/* An attempt to dial that failed may be named beside the one that has just become the upstream socket. */
	if (is_broken && is_upstream)
		is_broken = flow->stage == STAGE_MOVING && is_failed(flow->upstream);
	if (!is_upstream && event->events & (EPOLLRDHUP | EPOLLHUP))
		flow->client_has_closed = 1;
	if (flow->stage != STAGE_DEAD)
		flow_service(thread, flow, is_broken);
}

static int watch(struct thread *thread, int fd, uint64_t cookie, uint32_t flags)
{
	struct epoll_event event = {.events = EPOLLIN | flags, .data.u64 = cookie};
	return epoll_ctl(thread->epoll, EPOLL_CTL_ADD, fd, &event);
}

int thread_listen(struct thread *thread, uint32_t capture)
{
	return watch(thread, thread->relay->listeners[capture], COOKIE_LISTENER(capture), EPOLLEXCLUSIVE);
}

static void listen_again(struct thread *thread)
{
	thread->is_listening = 1;
	for (uint32_t capture = 0; capture < CAPTURES_MAX; capture++)
		if (thread->relay->listeners[capture] >= 0 && thread_listen(thread, capture) < 0 && errno != EEXIST)
			thread->is_listening = 0;
}

void thread_stop_listening(struct thread *thread)
{
	for (uint32_t capture = 0; capture < CAPTURES_MAX; capture++)
		if (thread->relay->listeners[capture] >= 0)
			epoll_ctl(thread->epoll, EPOLL_CTL_DEL, thread->relay->listeners[capture], NULL);
	thread->is_listening = 0;
}

static void turn(struct thread *thread, double *next_tick)
{
	struct epoll_event events[BATCH];
	uint64_t drained;
	int has_deadlines = thread->flows || thread->resolving || !thread->is_listening;
	int timeout = thread->ready || thread->ready_pumps ? 0 : has_deadlines ? (int)(TICK * 1000) : -1;
	int count = epoll_wait(thread->epoll, events, BATCH, timeout);
	thread->now = now();
	for (int i = 0; i < count; i++) {
		uint64_t cookie = events[i].data.u64;
		if (cookie >= COOKIE_FLOW)
			serve_event(thread, &events[i]);
		else if (cookie != COOKIE_WAKE)
			flow_accept(thread, (uint32_t)(cookie - COOKIE_LISTENER(0)) / 8);
		else if (read(thread->wake, &drained, sizeof drained) > 0)
			woken(thread, next_tick);
	}
	serve_ready(thread);
	pumps_serve_ready(thread);
	if (thread->now >= *next_tick) {
		tick(thread, thread->resolving); /* first: what has its name now goes on with the others */
		tick(thread, thread->flows);
		if (!thread->is_listening)
			listen_again(thread);
		*next_tick = thread->now + TICK;
	}
	bury(thread);
	pumps_bury(thread);
}

static void *thread_main(void *argument)
{
	struct thread *thread = argument;
	double next_tick = 0;
	while (!atomic_load(&thread->relay->is_closing))
		turn(thread, &next_tick);
	while (thread->flows || thread->resolving)
		flow_end(thread, thread->flows ? thread->flows : thread->resolving, END_DETACHED);
	serve_ready(thread); /* all dead: the list lets them go */
	bury(thread);
	pumps_take(thread);
	pumps_serve_ready(thread);
	pumps_bury(thread);
	return NULL;
}

int thread_prepare(struct thread *thread, struct relay *relay)
{
	thread->relay = relay;
	thread->now = now();
	thread->spare = -1; /* what can't be opened must not look like descriptor 0 when it is disposed of */
	thread->epoll = epoll_create1(EPOLL_CLOEXEC);
	thread->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	thread->netlink = route_open();
	thread->buffer = malloc(BUFFER_SIZE);
	thread->pipes = calloc(IDLE_PIPES_MAX, sizeof *thread->pipes);
	if (thread->epoll < 0 || thread->wake < 0 || thread->netlink < 0 || !thread->buffer || !thread->pipes)
		return -1;
	thread->spare = fcntl(thread->epoll, F_DUPFD_CLOEXEC, 0);
	thread->is_listening = 1;
	return watch(thread, thread->wake, COOKIE_WAKE, 0);
}

void thread_dispose(struct thread *thread)
{
	for (uint32_t i = 0; i < thread->idle_pipes; i++) {
		close(thread->pipes[i][0]);
		close(thread->pipes[i][1]);
	}
	int fds[] = {thread->epoll, thread->wake, thread->netlink, thread->spare};
	for (int i = 0; i < 4; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	free(thread->buffer);
	free(thread->pipes);
}

/* Signals are the interpreter's: the threads are born with all of them blocked. */
int thread_start(struct thread *thread)
{
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int error = pthread_create(&thread->id, NULL, thread_main, thread);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return error;
}

void wake_threads(struct relay *relay)
{
	for (uint32_t i = 0; i < relay->thread_count; i++)
		signal_fd(relay->threads[i].wake);
}
