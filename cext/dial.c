/* SPDX-License-Identifier: Apache-2.0
 *
 * Connection attempts, and the dial guard. dial.h names the owners and callers.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dial.h"
#include "guard.h"
#include "route.h"

#define ATTEMPT_DELAY 0.25 /* seconds, RFC 8305 section 5 */
/* Seconds after which an attempt makes way for the next address, if ATTEMPTS_MAX are open: enough for a SYN that is sent
 * again after 1 s. 17 addresses then have their attempts within the default dial_deadline. */
#define ATTEMPT_PATIENCE 2.5

void dial_order(struct endpoint *to, uint32_t count)
{
	for (uint32_t at = 1; at < count; at++) {
		int wanted = !address_is_v4(to[at - 1].address);
		uint32_t found = at;
		while (found < count && address_is_v4(to[found].address) != wanted)
			found++;
		if (found == count)
			return;
		struct endpoint next = to[found];
		memmove(to + at + 1, to + at, (found - at) * sizeof *to);
		to[at] = next;
	}
}

struct dial *dial_new(int epoll, uint64_t cookie, struct holding *places, const struct endpoint *to, uint32_t count)
{
	struct dial *dial = calloc(1, sizeof *dial);
	if (!dial)
		return NULL;
	dial->epoll = epoll;
	dial->cookie = cookie;
	dial->places = places;
	dial->count = count;
	dial->connected = -1;
	dial->error = EHOSTUNREACH;
	memcpy(dial->to, to, count * sizeof *to);
	return dial;
}

static socklen_t socket_address(const struct endpoint *to, struct sockaddr_storage *out)
{
	memset(out, 0, sizeof *out);
	if (address_is_v4(to->address)) {
		struct sockaddr_in *v4 = (struct sockaddr_in *)out;
		v4->sin_family = AF_INET;
		v4->sin_port = htons(to->port);
		memcpy(&v4->sin_addr, to->address + 12, 4);
		return sizeof *v4;
	}
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;
	v6->sin6_family = AF_INET6;
	v6->sin6_port = htons(to->port);
	memcpy(&v6->sin6_addr, to->address, 16);
	return sizeof *v6;
}

void close_watched(int epoll, int fd)
{
	if (fd < 0)
		return;
	epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL);
	close(fd);
}

/* Notes that an attempt is no longer open. */
static void forget(struct dial *dial, uint32_t attempt)
{
	dial->fds[attempt] = -1;
	dial->open--;
	if (dial->extra) {
		dial->extra--;
		places_give(dial->places, 1);
	}
}

static void fail(struct dial *dial, uint32_t attempt, int error)
{
	close_watched(dial->epoll, dial->fds[attempt]);
	forget(dial, attempt);
	dial->error = error;
	dial->next = 0;
}

/* Starts the next attempt. Its socket is registered as the flow's upstream socket would be: edge-triggered. */
static void start(struct dial *dial, double now)
{
	struct sockaddr_storage address;
	uint32_t attempt = dial->started++;
	socklen_t length = socket_address(&dial->to[attempt], &address);
	int fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
	dial->fds[attempt] = fd;
	dial->open++;
	dial->began[attempt] = now;
	dial->next = now + ATTEMPT_DELAY;
	if (fd < 0) {
		fail(dial, attempt, errno);
		return;
	}
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.u64 = dial->cookie};
	struct linger reset = {1, 0}; /* if this process is killed, the server gets a reset; cleared before a close with FIN */
	if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset) < 0 ||
	    (connect(fd, (struct sockaddr *)&address, length) < 0 && errno != EINPROGRESS) ||
	    epoll_ctl(dial->epoll, EPOLL_CTL_ADD, fd, &event) < 0)
		fail(dial, attempt, errno);
}

/* Checks every open attempt. Returns 1 if one has connected. A second connect(2) reports the state of the first. */
static int collect(struct dial *dial)
{
	for (uint32_t i = 0; i < dial->started; i++) {
		struct sockaddr_storage address;
		socklen_t length = socket_address(&dial->to[i], &address);
		if (dial->fds[i] < 0)
			continue;
		if (connect(dial->fds[i], (struct sockaddr *)&address, length) == 0 || errno == EISCONN) {
			dial->connected = dial->fds[i];
			dial->reached = dial->to[i];
			forget(dial, i);
			return 1;
		}
		if (errno != EALREADY && errno != EINTR)
			fail(dial, i, errno);
	}
	return 0;
}

/* Returns the open attempt that started first. There is one. */
static uint32_t oldest(const struct dial *dial)
{
	uint32_t attempt = 0;
	while (dial->fds[attempt] < 0)
		attempt++;
	return attempt;
}

/* Makes room for one more attempt. Returns 0 if there is none before the new `next`. */
static int make_room(struct dial *dial, double now)
{
	if (dial->open == ATTEMPTS_MAX) {
		double patience = dial->began[oldest(dial)] + ATTEMPT_PATIENCE;
		if (patience > now) {
			dial->next = patience;
			return 0;
		}
		fail(dial, oldest(dial), ETIMEDOUT);
	}
	if (dial->open == 0)
		return 1;
	if (places_take(dial->places, 1)) {
		dial->extra++;
		return 1;
	}
	dial->next = now + ATTEMPT_DELAY;
	return 0;
}

enum dial_state dial_step(struct dial *dial, double now)
{
	if (collect(dial))
		return DIAL_CONNECTED;
	while (dial->started < dial->count && dial->next <= now && make_room(dial, now))
		start(dial, now);
	if (dial->started == dial->count && dial->open == 0)
		return DIAL_FAILED;
	return DIAL_WAIT;
}

int dial_take(struct dial *dial, struct endpoint *reached)
{
	int fd = dial->connected;
	dial->connected = -1;
	*reached = dial->reached;
	return fd;
}

/* Closes with a FIN, not a reset: another attempt connected first, or the dial was cancelled. */
static void close_in_order(int epoll, int fd)
{
	struct linger none = {0, 0};
	if (fd >= 0)
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
	close_watched(epoll, fd);
}

void dial_cancel(struct dial *dial)
{
	if (!dial)
		return;
	close_in_order(dial->epoll, dial->connected);
	for (uint32_t i = 0; i < dial->started; i++)
		close_in_order(dial->epoll, dial->fds[i]);
	places_give(dial->places, dial->extra);
	free(dial);
}

enum permission dial_permitted(int netlink, const void *table, const struct endpoint *to)
{
	if (table && guard_names(table, to))
		return DIAL_PERMITTED;
	if (guard_is_local(to->address))
		return DIAL_REFUSED;
	switch (route_to(netlink, to)) {
	case ROUTE_UNICAST:
		return DIAL_PERMITTED;
	case ROUTE_NONE:
		return DIAL_UNREACHABLE;
	default:
		return DIAL_REFUSED;
	}
}
