/* The relay's containers: the table of their policy, their names, their counters.
 *
 * A container's `lock` guards its table and names. Counters are atomic. A share belongs to its thread, except its news,
 * which the thread's lock guards. Functions may be called from any thread, unless they say otherwise.
 */
#ifndef PYINTERCEPTOR_CONTAINER_H
#define PYINTERCEPTOR_CONTAINER_H

#include <pthread.h>
#include <stdatomic.h>

#include "names.h"
#include "places.h"
#include "relay.h"
#include "standing.h"

#define THREADS_MAX 16

struct counters {
	_Atomic uint64_t accepted, spliced, handled, refused, failed_dials, over_budget, reset, timed_out, no_resources;
	_Atomic uint64_t sent, received, flows;
};

/* An immutable policy blob. The container and its shares each hold a reference while they use it. */
struct table {
	atomic_uint references;
	uint32_t size;
	_Alignas(8) uint8_t blob[];
};

#define FLOW_DESCRIPTORS 2 /* of a flow: its client's socket and its upstream socket */

enum news { NEWS_NAMES = 1, NEWS_POLICY = 2, NEWS_GONE = 4, NEWS_FINISH = 8 };

/* The state of a container that belongs to one thread. */
struct share {
	struct container *container;
	struct flow *flows, *resolving; /* `resolving`: flows that wait for a name's addresses */
	struct table *table;            /* the newest table that the thread has seen; it holds a reference */
	uint32_t published;             /* the container's `published` when `table` was read */
	double finishing;               /* when relay_finish_flows() was heard: seconds, CLOCK_MONOTONIC; 0: never */
	uint32_t news;                  /* bits of enum news that the thread hasn't taken yet */
	struct share *next_news;
};

struct container {
	struct container *next;              /* in its hash bucket by number */
	struct container *next_on_interface; /* in its hash bucket by interface */
	atomic_uint references; /* one for both buckets, one for each flow and pump, one for each share with news */
	uint32_t id;            /* the caller's number: relay_add_container() */
	struct relay_budget budget;
	struct attachment attachment;
	pthread_mutex_t lock;
	struct table *table;    /* NULL: no policy is published yet, and every flow is refused */
	atomic_uint published;  /* number of tables published; incremented after `table` is set */
	struct names *names;
	atomic_uint openings, handoffs, pipes;
	_Atomic uint64_t held; /* bytes of buffers whose bytes aren't taken (buffers.h) */
	struct holding flows, descriptors; /* in the relay's pools; `flows`: those of C */
	struct counters counters;
	struct share shares[THREADS_MAX];
};

/* Return a container with a reference that the caller releases, or NULL if there is none. */
struct container *container_find(struct relay *relay, uint32_t id);
struct container *container_on(struct relay *relay, uint32_t capture, uint32_t interface);

/* Takes the places of a new flow: for the flow, its client's socket and one upstream socket. Returns 1, or 0 if there
 * is no room. */
int container_take_flow(struct container *container);
void container_give_flow(struct container *container, uint32_t descriptors);

/* Releases a reference; the last one frees the container. */
void container_release(struct container *container);

/* Returns the standing of an address towards a client of the container that says `host`: standing.h. */
enum standing container_standing(struct container *container, const void *table, const char *host, const struct endpoint *to);

/* Records that a flow to this synthetic address has ended. */
void container_release_name(struct container *container, const uint8_t synthetic[16]);

/* Returns the current table with a reference that the caller releases, or NULL. */
struct table *table_of(struct container *container);

/* Releases a reference; the last one frees the table. NULL is allowed. */
void table_release(struct table *table);

/* Returns the current table, or NULL. The share owns the reference. Called by the share's thread only. */
const struct table *share_table(struct share *share);

#endif
