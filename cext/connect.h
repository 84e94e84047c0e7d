/* Connect: finds a flow's addresses, checks them and dials them, to get its upstream socket.
 *
 * An address is dialled only if the policy decides it as the flow was decided, and the dial guard permits it. A real
 * address of a ruled host is dialled only under a name for which the container's DNS gave it. Called by reaching.c and
 * flow.c, on the flow's thread.
 */
#ifndef PYINTERCEPTOR_CONNECT_H
#define PYINTERCEPTOR_CONNECT_H

#include "container.h"
#include "dial.h"
#include "subject.h"

struct connecting {
	struct dial *dial;        /* owned; NULL: no dial is in progress */
	uint8_t has_asked;        /* 1: this flow has waited for its name to be resolved */
};

/* What the thread lends for the attempts. */
struct connect_place {
	int epoll, netlink;
	uint64_t cookie;          /* epoll's data for each attempt */
	struct ports *ports;
	struct nudges *nudges;
};

enum found {
	FOUND_ADDRESSES,          /* `dial` is set; an earlier dial to the same addresses continues */
	FOUND_QUESTION,           /* the name's addresses are unknown: post an EVENT_RESOLVE for `question` */
	FOUND_NOT_YET,            /* it was posted before; wait for the answer */
	FOUND_NONE,               /* no address may be dialled: `cause` is set */
	FOUND_NO_MEMORY
};

/* Finds the addresses that may be dialled. `question` must have room for HOST_MAX + 1 bytes. */
enum found connect_find(struct connecting *connecting, const struct connect_place *place, struct container *container,
                        const struct subject *subject, const void *table, double now, char *question, enum end_cause *cause);

/* Notes that `question` couldn't be posted, so that it is asked again. */
void connect_not_asked(struct container *container, const char *question);

/* Makes the attempts. Call it at the start, when an attempt's socket is ready, and at connect_next(). */
enum dial_state connect_step(struct connecting *connecting, double now, enum end_cause *cause);

/* Returns the time of the next attempt, seconds of CLOCK_MONOTONIC, or 0 if none is left. */
double connect_next(const struct connecting *connecting);

/* Returns the connected socket and its port, which the caller takes, and its address. Closes all other attempts. */
int connect_take(struct connecting *connecting, struct endpoint *reached, struct port_use **port);

/* Returns 1 if the flow may go on over its connected socket: by what its client says, connect_find() would list that
 * address. `before` is the host that the client said when the address was found, NULL if it had said none. */
int connect_suits(struct container *container, const struct subject *subject, const void *table, const char *before);

/* Closes all attempts. */
void connect_cancel(struct connecting *connecting);

#endif
