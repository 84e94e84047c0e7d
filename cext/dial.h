/* Connecting out: RFC 8305 attempts, and the half of the dial guard that asks the kernel.
 *
 * A struct dial owns its sockets until dial_take() or dial_cancel().
 */
#ifndef PYINTERCEPTOR_DIAL_H
#define PYINTERCEPTOR_DIAL_H

#include "names.h"
#include "relay.h"

enum dial_state { DIAL_WAIT, DIAL_CONNECTED, DIAL_FAILED };

struct dial {
	int epoll;
	uint64_t cookie;          /* epoll's data for each attempt */
	uint32_t count, started;
	int connected;            /* the socket that made it, or -1 */
	struct endpoint reached;  /* its address */
	int error;                /* errno of the last failure */
	double next;              /* when the next attempt starts, seconds of CLOCK_MONOTONIC */
	struct endpoint to[NAME_ADDRESSES_MAX + 1];
	int fds[NAME_ADDRESSES_MAX + 1];
};

/* Puts the families in turn, the first given first (RFC 8305 section 4). */
void dial_order(struct endpoint *to, uint32_t count);

/* NULL without memory. The attempts are made by dial_step(). */
struct dial *dial_new(int epoll, uint64_t cookie, const struct endpoint *to, uint32_t count);

/* Call it at the start, when an attempt's socket is ready, and when `next` has come. */
enum dial_state dial_step(struct dial *dial, double now);

/* The connected socket, the caller's now, and its address. */
int dial_take(struct dial *dial, struct endpoint *reached);

/* Closes what is open and frees it; NULL is fine. */
void dial_cancel(struct dial *dial);

/* Takes a socket out of an epoll and closes it; -1 is fine. Closing alone isn't enough: an epoll watches the socket,
 * which lives on while a process that is being forked or a pump's owner has a descriptor of it. */
void close_watched(int epoll, int fd);

/* The dial guard, for splices and fetch() alike. A local address, or one that is the host's own whatever its range,
 * must be named by the table's local_networks (table may be NULL). UNREACHABLE only where the kernel answered that
 * it has no route: the dial itself would fail with that. An error of any other kind is REFUSED. `netlink` is a
 * socket of route_open(). */
enum permission dial_permitted(int netlink, const void *table, const struct endpoint *to);

#endif
