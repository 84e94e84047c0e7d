/* Pumps: bodies that a thread of the relay moves between two sockets which Python lends.
 *
 * Called by thread.c.
 */
#ifndef PYINTERCEPTOR_PUMP_H
#define PYINTERCEPTOR_PUMP_H

#include "container.h"
#include "move.h"

/* The pumps of one thread. */
struct pumps {
	pthread_mutex_t lock;                 /* of `started` and `finished`, which owners fill */
	struct relay_pump *started, *finished;
	struct relay_pump *ready, *dead;      /* the thread's own */
	struct workspace *workspace;
	int epoll, wake;
};

/* Takes the container's reference. NULL with errno, and the reference stays the caller's. */
struct relay_pump *pump_start(struct pumps *pumps, struct container *container, int from, int to, uint64_t limit);

/* epoll's event for a pump's cookie, an address. */
void pump_event(struct pumps *pumps, uint64_t cookie, int is_broken);

/* Begins started pumps and takes finished ones apart. */
void pumps_take(struct pumps *pumps);
void pumps_serve_ready(struct pumps *pumps);

/* Frees dead pumps, after every event of the turn has been looked at. */
void pumps_bury(struct pumps *pumps);

/* What epoll reports of a pump is its address and this. */
#define COOKIE_PUMP 2

#endif
