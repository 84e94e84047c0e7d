/* Outgoing connections: attempts by RFC 8305, and the whole dial guard (guard.h and the kernel's route).
 *
 * A struct dial owns its sockets until dial_take() or dial_cancel(). Called by connect.c, on the flow's thread;
 * dial_permitted() also by container.c for Python, close_watched() also by flow.c and pump.c.
 */
#ifndef PYINTERCEPTOR_DIAL_H
#define PYINTERCEPTOR_DIAL_H

#include "names.h"
#include "places.h"
#include "relay.h"

enum dial_state { DIAL_WAIT, DIAL_CONNECTED, DIAL_FAILED };

struct dial {
	int epoll;
	uint64_t cookie;          /* epoll's data for each attempt */
	struct holding *places;   /* borrowed: for descriptors */
	uint32_t count, started;  /* number of addresses, and of attempts started */
	uint32_t open, extra;     /* attempts that are open, and places that they hold beside the flow's */
	int connected;            /* the connected socket, or -1 */
	struct endpoint reached;  /* the connected socket's address */
	int error;                /* errno of the last failure */
	double next;              /* when the next attempt may start, seconds of CLOCK_MONOTONIC */
	struct endpoint to[NAME_ADDRESSES_MAX + 1];
	int fds[NAME_ADDRESSES_MAX + 1];
	double began[NAME_ADDRESSES_MAX + 1]; /* when each attempt started */
};

/* Orders addresses so that the families alternate, beginning with the family of the first (RFC 8305 section 4). */
void dial_order(struct endpoint *to, uint32_t count);

/* Returns NULL if memory is short. dial_step() makes the attempts, of which at most ATTEMPTS_MAX are open at once. Each
 * but one needs a place of `places`; while there is none, the next attempt waits. */
struct dial *dial_new(int epoll, uint64_t cookie, struct holding *places, const struct endpoint *to, uint32_t count);

/* Checks the open attempts and starts those that are due. Call it first after dial_new(), then when an attempt's socket
 * is ready and at `next`. */
enum dial_state dial_step(struct dial *dial, double now);

/* Returns the connected socket, which the caller takes, and its address. */
int dial_take(struct dial *dial, struct endpoint *reached);

/* Closes the sockets and frees the dial. NULL is allowed. */
void dial_cancel(struct dial *dial);

/* Removes a socket from an epoll and closes it. -1 is allowed. Closing alone isn't enough: epoll watches the open file,
 * which stays open while a forked process or a pump's owner has another descriptor of it. */
void close_watched(int epoll, int fd);

/* The dial guard, for spliced flows and for fetch(). A local address, or any address of the host itself, is permitted
 * only if the table's local_networks contain it; `table` may be NULL. Returns DIAL_UNREACHABLE only if the kernel
 * answered that it has no route: connect(2) would fail in the same way. Returns DIAL_REFUSED on any other error.
 * Borrows `netlink`, a socket from route_open(). */
enum permission dial_permitted(int netlink, const void *table, const struct endpoint *to);

#endif
