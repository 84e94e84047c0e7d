/* Outgoing connections: attempts by RFC 8305, and the whole dial guard (guard.h and the kernel's route).
 *
 * A struct dial owns its sockets until dial_take() or dial_cancel(). Called by connect.c, on the flow's thread;
 * dial_permitted() also by container.c for Python, close_watched() also by flow.c and pump.c.
 */
#ifndef PYINTERCEPTOR_DIAL_H
#define PYINTERCEPTOR_DIAL_H

#include "names.h"
#include "places.h"
#include "ports.h"
#include "relay.h"

enum dial_state { DIAL_WAIT, DIAL_CONNECTED, DIAL_FAILED };

/* Where the attempts of a dial get their sockets. All is borrowed. */
struct dial_place {
	int epoll;
	uint64_t cookie;             /* epoll's data for each attempt */
	struct holding *descriptors;
	struct ports *ports;
	struct nudges *nudges;       /* of the flow's thread */
	uint32_t container, limit;   /* its number, and the most ports that it may use to one destination */
};

struct dial {
	struct dial_place place;
	struct port_wait wait;    /* the next attempt waits for a port */
	struct port_use *port;    /* of the next attempt; NULL: none yet */
	uint16_t number;          /* `port` rests: the next attempt must bind this number; 0: any */
	uint32_t count, started;  /* number of addresses, and of attempts started */
	uint32_t open, extra;     /* attempts that are open, and places that they hold beside the flow's */
	int connected;            /* the connected socket, or -1 */
	struct port_use *connected_port;
	struct endpoint reached;  /* the connected socket's address */
	int error;                /* errno of the last failure */
	double next;              /* when the next attempt may start, seconds of CLOCK_MONOTONIC */
	struct endpoint to[NAME_ADDRESSES_MAX + 1];
	int fds[NAME_ADDRESSES_MAX + 1];
	struct port_use *ports[NAME_ADDRESSES_MAX + 1]; /* of open attempts */
	double began[NAME_ADDRESSES_MAX + 1]; /* when each attempt started */
};

/* Orders addresses so that the families alternate, beginning with the family of the first (RFC 8305 section 4). */
void dial_order(struct endpoint *to, uint32_t count);

/* Returns NULL if memory is short. dial_step() makes the attempts, of which at most ATTEMPTS_MAX are open at once. Each
 * needs a port, and each but one a descriptor of the container's budget; while there is none, the next attempt waits. */
struct dial *dial_new(const struct dial_place *place, const struct endpoint *to, uint32_t count);

/* Checks the open attempts and starts those that are due. Call it first after dial_new(), then when an attempt's socket
 * is ready, at `next`, and when the dial is nudged. */
enum dial_state dial_step(struct dial *dial, double now);

/* Returns the connected socket and its port, which the caller takes, and its address. */
int dial_take(struct dial *dial, struct endpoint *reached, struct port_use **port);

/* Gives back the port of a connection, before it is closed. `rests`: we close it first and without a reset, so that its
 * port stays in TIME_WAIT. `port` may be NULL. */
void dial_release(struct ports *ports, struct port_use *port, int fd, int rests, double now);

/* Returns 1 if the port of a connection rests when we close it now: its peer hasn't closed it yet. */
int dial_rests(int fd);

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
