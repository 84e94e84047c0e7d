/* SPDX-License-Identifier: Apache-2.0
 *
 * Connection attempts, and the dial guard. dial.h names the owners and callers.
 */
#include <errno.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dial.h"
#include "events.h"
#include "guard.h"
#include "route.h"

#define LOCAL_PORT_RANGE 51 /* IP_LOCAL_PORT_RANGE, Linux 6.3; for both families */
#define BINDS_MAX 8         /* resting ports that one step tries to bind */
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

struct dial *dial_new(const struct dial_place *place, const struct endpoint *to, uint32_t count)
{
	struct dial *dial = calloc(1, sizeof *dial);
	if (!dial)
		return NULL;
	dial->place = *place;
	dial->wait = (struct port_wait){.nudges = place->nudges, .cookie = place->cookie};
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

/* ---- ports ---- */

/* Returns the socket's local port if it may be bound again while it is in TIME_WAIT: the connection had timestamps. */
static uint16_t reusable_port(int fd)
{
	struct tcp_info info = {0};
	struct sockaddr_in6 own = {0}; /* sin_port and sin6_port are in the same place */
	socklen_t size = sizeof info, length = sizeof own;
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0 || !(info.tcpi_options & TCPI_OPT_TIMESTAMPS))
		return 0;
	return getsockname(fd, (struct sockaddr *)&own, &length) == 0 ? ntohs(own.sin6_port) : 0;
}

void dial_release(struct ports *ports, struct port_use *port, int fd, int rests, double now)
{
	if (port)
		signal_fd(rests ? ports_rest(ports, port, reusable_port(fd), now) : ports_give(ports, port));
}

int dial_rests(int fd)
{
	struct tcp_info info = {0};
	struct linger linger = {0};
	socklen_t size = sizeof info, length = sizeof linger;
	if (getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &length) == 0 && linger.l_onoff && linger.l_linger == 0)
		return 0;
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0)
		return 1;
	return info.tcpi_state != TCP_CLOSE_WAIT && info.tcpi_state != TCP_LAST_ACK && info.tcpi_state != TCP_SYN_SENT;
}

/* Takes a port for the next attempt. Returns 0 if there is none before the new `next`, or the dial's nudge. */
static int take_port(struct dial *dial, double now)
{
	const struct dial_place *place = &dial->place;
	if (dial->port)
		return 1;
	dial->port = ports_take(place->ports, place->container, place->limit, &dial->to[dial->started], now, &dial->wait,
	                        &dial->number);
	if (dial->port) {
		signal_fd(ports_leave(place->ports, &dial->wait));
		return 1;
	}
	dial->next = ports_is_first(place->ports, &dial->wait) ? now + ATTEMPT_DELAY : INFINITY;
	return 0;
}

/* Returns 1 if the host has an address from which it can send to `to`. */
static int has_source(const struct endpoint *to)
{
	struct sockaddr_storage address;
	socklen_t length = socket_address(to, &address);
	int fd = socket(address.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int has_one = fd >= 0 && connect(fd, (struct sockaddr *)&address, length) == 0;
	if (fd >= 0)
		close(fd);
	return has_one;
}

/* Gives back the next attempt's port, which the kernel refused with `error`. Returns 1 if the attempt should wait for
 * another one, 0 if no port would help. */
static int refuse_port(struct dial *dial, int error, double now)
{
	struct ports *ports = dial->place.ports;
	struct port_use *port = dial->port;
	dial->port = NULL;
	if (dial->number) {
		signal_fd(ports_rest(ports, port, 0, now));
		return 1;
	}
	signal_fd(ports_give(ports, port));
	return error == EADDRNOTAVAIL && has_source(&dial->to[dial->started]);
}

/* ---- attempts ---- */

/* Notes that an attempt is no longer open. */
static void forget(struct dial *dial, uint32_t attempt)
{
	dial->fds[attempt] = -1;
	dial->open--;
	if (dial->extra) {
		dial->extra--;
		places_give(dial->place.descriptors, 1);
	}
}

static void fail(struct dial *dial, uint32_t attempt, int error)
{
	close_watched(dial->place.epoll, dial->fds[attempt]);
	dial_release(dial->place.ports, dial->ports[attempt], -1, 0, 0);
	dial->ports[attempt] = NULL;
	forget(dial, attempt);
	dial->error = error;
	dial->next = 0;
}

/* Sets the socket's options, and binds it if the next attempt has a resting port. Returns 0, or -1 with errno. */
static int prepare(const struct dial *dial, int fd, int family)
{
	struct linger reset = {1, 0}; /* if this process is killed, the server gets a reset; cleared before a close with FIN */
	struct sockaddr_in6 own = {.sin6_family = (sa_family_t)family, .sin6_port = htons(dial->number)}; /* or sockaddr_in */
	uint32_t range = ports_range(dial->place.ports);
	int on = 1;
	if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0)
		return -1;
	if (range)
		setsockopt(fd, IPPROTO_IP, LOCAL_PORT_RANGE, &range, sizeof range); /* an older kernel has no such option */
	if (!dial->number)
		return 0;
	if (family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on) < 0)
		return -1;
	return bind(fd, (struct sockaddr *)&own, family == AF_INET6 ? sizeof own : sizeof(struct sockaddr_in));
}

/* Gives back the descriptor that make_room() took. */
static void give_room(struct dial *dial)
{
	if (dial->open) {
		dial->extra--;
		places_give(dial->place.descriptors, 1);
	}
}

/* Starts the next attempt. Its socket is registered as the flow's upstream socket would be: edge-triggered. Returns 0 if
 * it must wait for another port. */
static int start(struct dial *dial, double now)
{
	struct sockaddr_storage address;
	uint32_t attempt = dial->started;
	socklen_t length = socket_address(&dial->to[attempt], &address);
	int epoll = dial->place.epoll, error = 0;
	int fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.u64 = dial->place.cookie};
	if (fd < 0 || prepare(dial, fd, address.ss_family) < 0 ||
	    (connect(fd, (struct sockaddr *)&address, length) < 0 && errno != EINPROGRESS) ||
	    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
		error = errno;
	if ((error == EADDRNOTAVAIL || error == EADDRINUSE) && refuse_port(dial, error, now)) {
		close(fd);
		give_room(dial);
		return 0;
	}
	dial->started++;
	dial->fds[attempt] = fd;
	dial->ports[attempt] = dial->port;
	dial->port = NULL;
	dial->open++;
	dial->began[attempt] = now;
	dial->next = now + ATTEMPT_DELAY;
	if (error)
		fail(dial, attempt, error);
	return 1;
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
			dial->connected_port = dial->ports[i];
			dial->ports[i] = NULL;
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
	if (places_take(dial->place.descriptors, 1)) {
		dial->extra++;
		return 1;
	}
	dial->next = now + ATTEMPT_DELAY;
	return 0;
}

/* Returns 1 if the next attempt may start or wait: a dial that waits for a port is nudged at any time. */
static int is_due(const struct dial *dial, double now)
{
	return dial->started < dial->count && (dial->next <= now || dial->wait.use);
}

enum dial_state dial_step(struct dial *dial, double now)
{
	int binds = 0;
	if (collect(dial))
		return DIAL_CONNECTED;
	while (is_due(dial, now) && take_port(dial, now) && make_room(dial, now)) {
		if (start(dial, now))
			continue;
		dial->next = ++binds < BINDS_MAX ? now : now + ATTEMPT_DELAY;
	}
	if (dial->started == dial->count && dial->open == 0)
		return DIAL_FAILED;
	return DIAL_WAIT;
}

int dial_take(struct dial *dial, struct endpoint *reached, struct port_use **port)
{
	int fd = dial->connected;
	*port = dial->connected_port;
	dial->connected = -1;
	dial->connected_port = NULL;
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
	struct ports *ports = dial->place.ports;
	close_in_order(dial->place.epoll, dial->connected);
	dial_release(ports, dial->connected_port, -1, 0, 0);
	for (uint32_t i = 0; i < dial->started; i++) {
		close_in_order(dial->place.epoll, dial->fds[i]);
		dial_release(ports, dial->ports[i], -1, 0, 0);
	}
	dial_release(ports, dial->port, -1, 0, 0);
	signal_fd(ports_leave(ports, &dial->wait));
	places_give(dial->place.descriptors, dial->extra);
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
