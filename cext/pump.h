/* Pumps: a thread of the relay moves a body between two sockets that Python lends.
 *
 * Called by thread.c; Python calls relay.h's functions.
 */
#ifndef PYINTERCEPTOR_PUMP_H
#define PYINTERCEPTOR_PUMP_H

#include "buffers.h"
#include "move.h"

/* The pumps of one thread. */
struct pumps {
	pthread_mutex_t lock;                 /* guards `started` and `finished` */
	struct relay_pump *started, *finished; /* lists that owners fill and the thread empties */
	struct relay_pump *ready, *dead;      /* lists of the thread only */
	struct workspace *workspace;
	int epoll, wake;                      /* borrowed from the thread */
};

/* Starts a pump: takes the caller's reference to the container. Returns NULL with errno on failure, and doesn't take
 * it. */
struct relay_pump *pump_start(struct pumps *pumps, struct container *container, int from, int to, uint64_t limit);

/* Handles an epoll event with a pump's cookie. */
void pump_event(struct pumps *pumps, uint64_t cookie, int is_broken);

/* Begins the pumps that were started, and marks those that were finished as dead. */
void pumps_take(struct pumps *pumps);

/* Serves the pumps that had more bytes to move when their turn ended. */
void pumps_serve_ready(struct pumps *pumps);

/* Frees dead pumps. Call it after every event of the turn was handled: a later event could name the same pump. */
void pumps_bury(struct pumps *pumps);

/* A pump's cookie is its address with this bit set. */
#define COOKIE_PUMP 2

#endif
