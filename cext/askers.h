/* The containers as DNS sees them: their queues of datagrams, their turns, and their places for questions upstream.
 *
 * Owns its memory, and does no I/O. Called by resolver, with its lock held.
 */
#ifndef PYINTERCEPTOR_ASKERS_H
#define PYINTERCEPTOR_ASKERS_H

#include "datagrams.h"
#include "nameservers.h"

#define ASKER_BUCKETS 1024
#define WITH_PYTHON_MAX 16    /* queries of one container that Python has; its others wait in its queue */

struct waiting;               /* a query that waits for a place, or for upstream: waiting.c */

struct queued {
	struct queued *next;
	struct datagram_way way;
	uint32_t length;
	uint8_t bytes[];
};

struct asker {
	struct asker *next;          /* in its hash bucket by interface */
	struct asker *next_turn;
	uint32_t references;         /* one for the bucket, one for each query that waits for upstream */
	uint32_t container, interface;
	struct resolver_budget budget;
	struct queued *first, **last; /* datagrams that wait for their turn */
	uint32_t queued;
	uint32_t with_python;
	uint32_t places;             /* that are taken */
	struct waiting *patient, **last_patient; /* what waits for a place */
	uint8_t has_turn;
	uint8_t is_gone;             /* 1: removed; it is freed with its last reference */
	struct resolver_counts counts;
	char own[HOST_MAX + 1];
};

struct askers {
	struct asker *buckets[ASKER_BUCKETS];
	struct asker *first_turn, **last_turn;
};

void askers_init(struct askers *askers);

/* Returns NULL if memory is short. */
struct asker *asker_add(struct askers *askers, uint32_t container, uint32_t interface, const struct resolver_budget *budget,
                        const char *own);

/* Removes the asker and its queue, and releases the bucket's reference. */
void asker_remove(struct askers *askers, struct asker *asker);
void asker_release(struct asker *asker);

/* Returns NULL if no container has the interface. */
struct asker *asker_on(const struct askers *askers, uint32_t interface);

/* Puts a datagram into its container's queue. Returns 0 if that is full, or memory is short. */
int asker_queue(struct askers *askers, struct asker *asker, const struct datagram *datagram);

/* Takes the next datagram of the container whose turn it is; NULL if none waits. The caller frees it. */
struct queued *askers_take(struct askers *askers, struct asker **asker);

/* Reports that Python has replied to one of its queries. */
void asker_replied(struct askers *askers, struct asker *asker);

#endif
