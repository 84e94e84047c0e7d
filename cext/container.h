/* Containers as the relay knows them: their policy's table, their names, their counters.
 *
 * A container's `lock` guards its table and names. Counters are atomic. A share belongs to its thread, but for its news, which its
 * thread's lock guards.
 */
#ifndef PYINTERCEPTOR_CONTAINER_H
#define PYINTERCEPTOR_CONTAINER_H

#include <pthread.h>
#include <stdatomic.h>

#include "names.h"
#include "relay.h"

#define THREADS_MAX 16

struct counters {
	_Atomic uint64_t accepted, spliced, handled, refused, failed_dials, over_budget, reset, timed_out, no_resources;
	_Atomic uint64_t sent, received, flows;
};

/* An immutable policy blob, shared by all who decide by it at this moment. */
struct table {
	atomic_uint references;
	uint32_t size;
	_Alignas(8) uint8_t blob[];
};

enum news { NEWS_NAMES = 1, NEWS_POLICY = 2, NEWS_GONE = 4 };

/* A container's part in one thread. */
struct share {
	struct container *container;
	struct flow *flows, *resolving; /* `resolving`: those that wait for a name */
	struct table *table;            /* the thread's reference to the newest table it knows */
	uint32_t published;             /* of that table: the container's count */
	uint32_t news;                  /* enum news, not yet taken */
	struct share *next_news;
};

struct container {
	struct container *next;              /* in its bucket by number */
	struct container *next_on_interface; /* in its bucket by interface */
	atomic_uint references; /* the list's, one a flow, one a share with news */
	uint32_t id;            /* its number */
	struct relay_budget budget;
	struct attachment attachment;
	pthread_mutex_t lock;
	struct table *table;    /* NULL: nothing is decided yet, all is refused */
	atomic_uint published;  /* counts tables; it changes after `table` */
	struct names *names;
	atomic_uint openings, handoffs, pipes;
	struct counters counters;
	struct share shares[THREADS_MAX];
};

struct container *container_find(struct relay *relay, uint32_t id); /* takes a reference, or NULL */
struct container *container_on(struct relay *relay, uint32_t capture, uint32_t interface); /* likewise */
void container_release(struct container *container);
void container_release_name(struct container *container, const uint8_t synthetic[16]); /* a flow to it has ended */
struct table *table_of(struct container *container); /* takes a reference, or NULL */
void table_release(struct table *table);

/* The table of this moment, or NULL; the share's own reference. By the share's thread alone. */
const struct table *share_table(struct share *share);

#endif
