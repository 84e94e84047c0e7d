/* Connect: a flow's way to its upstream socket. Which addresses, may they be dialled, attempts.
 *
 * Called by flow.c. Every address is decided by the policy and passes the dial guard before it is dialled.
 */
#ifndef PYINTERCEPTOR_CONNECT_H
#define PYINTERCEPTOR_CONNECT_H

#include "container.h"
#include "dial.h"
#include "subject.h"

struct connecting {
	struct dial *dial;        /* NULL: no attempt is made */
	uint8_t has_asked;        /* this flow waits for an answer about its name */
};

/* Where the attempts are made. */
struct connect_place {
	int epoll, netlink;
	uint64_t cookie;          /* what epoll says of each attempt */
};

enum found {
	FOUND_ADDRESSES,          /* the dial is made; what was dialled before goes on if its addresses are the same */
	FOUND_QUESTION,           /* the name's addresses must be asked for: post an EVENT_RESOLVE for `question` */
	FOUND_NOT_YET,            /* they have been asked for */
	FOUND_NONE,               /* `cause` says why */
	FOUND_NO_MEMORY
};

/* Finds the addresses that may be dialled. `question` has room for a name. */
enum found connect_find(struct connecting *connecting, const struct connect_place *place, struct container *container,
                        const struct subject *subject, const void *table, double now, char *question, enum end_cause *cause);

/* The question couldn't be posted. */
void connect_not_asked(struct container *container, const char *question);

/* Makes the attempts. Call it at the start, when one is ready, and when connect_next() has come. */
enum dial_state connect_step(struct connecting *connecting, double now, enum end_cause *cause);

/* When the next attempt begins, seconds of CLOCK_MONOTONIC; 0: none is left. */
double connect_next(const struct connecting *connecting);

/* Takes the connected socket, and says where it is connected to. Nothing else stays open. */
int connect_take(struct connecting *connecting, struct endpoint *reached);

/* Ends all attempts. */
void connect_cancel(struct connecting *connecting);

#endif
