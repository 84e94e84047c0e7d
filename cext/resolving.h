/* The resolver's state, and the functions that its files share. Called with its lock held.
 *
 * answers.c writes answers and queues events, waiting.c has the queries that wait, resolver.c has the thread and the calls
 * of resolver.h.
 */
#ifndef PYINTERCEPTOR_RESOLVING_H
#define PYINTERCEPTOR_RESOLVING_H

#include <pthread.h>

#include "askers.h"
#include "resolver.h"
#include "upstream.h"

/* A container's query, and where its answer goes. */
struct query {
	struct asker *asker;
	uint64_t token;              /* of Python; 0: the answer is a datagram */
	struct datagram_way way;
	double came;                 /* seconds */
	struct question asked;
	const uint8_t *question;     /* `asked.length` bytes */
};

struct waiting;               /* a query that waits: waiting.c */
struct wish;                  /* a question of Python's own: waiting.c */

struct resolver {
	struct resolver_options options;
	pthread_mutex_t lock;
	pthread_t thread;
	int has_thread, is_closing;
	int epoll, wake, ready;      /* eventfds: `wake` for the thread, `ready` for Python */
	double waits_until;          /* seconds: the thread's deadline */
	int socket;                  /* borrowed; -1: none */
	int has_v6, is_observed;
	struct cache *cache;
	struct upstream *upstream;
	struct askers askers;
	struct waiting *begun;       /* those that wait for upstream */
	struct wish *wishes;
	struct waiting *second, **last_second; /* those that wait for the second family, the first that ends first */
	struct resolver_event *first_event, **last_event;
	uint32_t records;            /* of the events */
	uint64_t dropped;
	uint32_t lost;
	uint32_t count;              /* of `answers` */
	struct datagram received[DATAGRAMS_MAX], answers[DATAGRAMS_MAX];
	uint8_t scratch[MESSAGE_MAX];
};

/* ---- answers.c ---- */

/* Returns a queued event with room for `length` bytes, or NULL if memory is short. */
struct resolver_event *event_add(struct resolver *resolver, uint32_t kind, const uint8_t *bytes, uint32_t length);

/* Returns the oldest event, which the caller frees; NULL if there is none. */
struct resolver_event *event_take(struct resolver *resolver);

/* Returns the next datagram to fill. answers_flush() sends it. */
struct datagram *answer_datagram(struct resolver *resolver, const struct datagram_way *way);
void answers_flush(struct resolver *resolver);

/* Passes upstream's answer on. `other` is that of the other family; NULL: none. */
void answer_query(struct resolver *resolver, const struct query *query, const struct known *own, const struct known *other,
                  double now);

/* Answers a query with the error, or truncated if the code is 0. */
void answer_error(struct resolver *resolver, const struct query *query, uint32_t code);

/* Truncates the answer to a query that exceeds its container's budget, and counts it. */
void answer_over_budget(struct resolver *resolver, const struct query *query);

/* ---- waiting.c ---- */

/* Answers a query that only upstream can answer, from the cache or as soon as upstream's answer comes. */
void query_pass(struct resolver *resolver, const struct query *query, double now);

/* Takes a place for Python. Returns 0 if the query waits for one. */
int place_take(struct resolver *resolver, const struct query *query);

/* Gives a place back, or to the first one that waits for it. */
void place_leave(struct resolver *resolver, struct asker *asker, double now);

/* Withdraws a token of Python. Returns 1 if it was waiting for a place. */
int query_withdraw(struct resolver *resolver, struct asker *asker, uint64_t token);

/* Asks upstream a question of Python's own. */
void wish_begin(struct resolver *resolver, uint64_t token, const uint8_t *question, uint32_t length, double now);

/* Returns the time at which a query has waited long enough for the second family, in seconds; INFINITY: none waits. */
double waiting_deadline(const struct resolver *resolver);

/* Answers the queries that have waited long enough for the second family. */
void waiting_expire(struct resolver *resolver, double now);

/* Frees what waits: of the asker for a place, and everything else. */
void patient_free(struct asker *asker);
void waiting_free_all(struct resolver *resolver);

#endif
