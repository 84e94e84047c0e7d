/* Ports: the local ports of connections to one destination (address and port), and each container's share of them.
 *
 * A connection has its port while it is open. If we closed it first, the port then rests for a minute (TIME_WAIT). A
 * container takes another port only while it has fewer to that destination than are free: one container alone gets half
 * of them, two get a third each, and one more always finds some. Above that it binds its oldest resting port again: the
 * kernel permits this at once if the connection had timestamps. If it has none, its connections wait, in their order.
 * Pure but for the lock. Called from any thread.
 */
#ifndef PYINTERCEPTOR_PORTS_H
#define PYINTERCEPTOR_PORTS_H

#include <pthread.h>
#include <stdint.h>

#include "addresses.h"

#define REST 60 /* seconds: TCP_TIMEWAIT_LEN in the kernel */
#define PORT_BUCKETS 16384

struct port_use; /* one container's ports to one destination */
struct resting;

/* The waiting connections of one thread that are to try again. The ports' lock guards them. */
struct nudges {
	int wake; /* the eventfd that wakes the thread; -1: none */
	struct port_wait *first;
};

/* A connection that waits for a port. Its owner sets `nudges` and `cookie`, and zeroes the rest. */
struct port_wait {
	struct nudges *nudges;
	uint64_t cookie;
	struct port_use *use; /* NULL: it isn't waiting */
	struct port_wait *next, *previous, *next_nudged;
	uint8_t is_nudged;
};

struct ports {
	pthread_mutex_t lock;
	uint64_t seed;
	uint32_t total; /* ports for connections to one destination, of all containers together */
	uint32_t first; /* the lowest of these ports; 0: unknown */
	struct resting *oldest, *newest;
	struct port_use *buckets[PORT_BUCKETS];
};

void ports_open(struct ports *ports, uint64_t seed);
void ports_close(struct ports *ports);

/* Sets the ports that connections may have: `total` from `first` on. Ports in use stay. */
void ports_set(struct ports *ports, uint32_t first, uint32_t total);

/* Returns the range of the ports as IP_LOCAL_PORT_RANGE has it, the first in the lower 16 bits and the last in the upper
 * ones, or 0 if it is unknown. */
uint32_t ports_range(struct ports *ports);

/* Takes a port for a connection to `to`; the container has at most `limit`. Returns its use, which ports_give() or
 * ports_rest() gets. `number` is a resting port that the connection must bind (SO_REUSEADDR), or 0: any. Returns NULL if
 * there is none or memory is short: then `wait`, unless it is NULL, is queued until ports_leave(), which the caller calls
 * after success as well. The first in its queue is nudged when a port may be free, and must call ports_take() again, also
 * from time to time: ports of other containers become free without a nudge. */
struct port_use *ports_take(struct ports *ports, uint32_t container, uint32_t limit, const struct endpoint *to, double now,
                            struct port_wait *wait, uint16_t *number);

/* Returns 1 if no other connection waits before this one, or if this one could not be queued for want of memory. */
int ports_is_first(struct ports *ports, const struct port_wait *wait);

/* The functions below return the eventfd of the thread that has a nudge, or -1. */

/* Reports that the port is free. */
int ports_give(struct ports *ports, struct port_use *use);

/* Reports that the port rests. `number`: the port, if it may be bound again; else 0. */
int ports_rest(struct ports *ports, struct port_use *use, uint16_t number, double now);

/* Leaves the queue. Does nothing if it isn't waiting. */
int ports_leave(struct ports *ports, struct port_wait *wait);

/* Takes the next nudge of a thread. Returns its cookie, or 0 if there is none. */
uint64_t ports_nudged(struct ports *ports, struct nudges *nudges);

#endif
