/* SPDX-License-Identifier: Apache-2.0
 *
 * The resolver's queries that wait: for a place, for upstream, or for the second family of a name's addresses.
 */
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "resolving.h"

enum { TYPE_A = 1, TYPE_AAAA = 28, CODE_SERVFAIL = 2 };

/* A query that waits for a place, or for upstream. Without a question, it stands for a place that Python waits for. */
struct waiting {
	struct waiting *next;        /* list of those that wait for a place, or for the second family */
	struct waiting **link;       /* NULL: in no list of those that wait for the second family */
	struct waiting *before, *after; /* list of those that wait for upstream */
	struct resolver *resolver;
	struct query query;
	struct waiter own, other;    /* for the family that was asked for, and for the other one */
	struct known *answers[2];
	double until;                /* seconds: the end of the wait for the second family */
	uint8_t own_is_due, other_is_due;
	uint8_t is_done;
	uint8_t is_unwanted;         /* 1: Python has withdrawn it */
	uint8_t question[];
};

/* A question of Python's own. */
struct wish {
	struct waiter waiter;
	struct wish *next, **link;
	struct resolver *resolver;
	uint64_t token;
};

static void waiting_start(struct waiting *waiting, double now);

static struct waiting *waiting_new(struct resolver *resolver, const struct query *query)
{
	struct waiting *waiting = calloc(1, sizeof *waiting + query->asked.length);
	if (!waiting)
		return NULL;
	waiting->resolver = resolver;
	waiting->query = *query;
	if (query->asked.length)
		memcpy(waiting->question, query->question, query->asked.length);
	waiting->query.question = waiting->question;
	return waiting;
}

void place_leave(struct resolver *resolver, struct asker *asker, double now)
{
	struct waiting *next = asker->patient;
	asker->places--;
	if (!next || asker->is_gone)
		return;
	asker->places++;
	asker->patient = next->next;
	if (!asker->patient)
		asker->last_patient = &asker->patient;
	if (next->query.asked.length) {
		waiting_start(next, now);
		return;
	}
	struct resolver_event *event = event_add(resolver, RESOLVER_PLACE, NULL, 0);
	if (event)
		event->token = next->query.token;
	free(next);
}

static void leave_second(struct waiting *waiting)
{
	struct resolver *resolver = waiting->resolver;
	if (!waiting->link)
		return;
	*waiting->link = waiting->next;
	*(waiting->next ? &waiting->next->link : &resolver->last_second) = waiting->link;
	waiting->link = NULL;
}

static void join_second(struct waiting *waiting, double now)
{
	struct resolver *resolver = waiting->resolver;
	waiting->until = now + SECOND_FAMILY;
	waiting->next = NULL;
	waiting->link = resolver->last_second;
	*resolver->last_second = waiting;
	resolver->last_second = &waiting->next;
}

static void waiting_free(struct waiting *waiting)
{
	if (waiting->before || waiting->resolver->begun == waiting)
		*(waiting->before ? &waiting->before->after : &waiting->resolver->begun) = waiting->after;
	if (waiting->after)
		waiting->after->before = waiting->before;
	known_release(waiting->answers[0]);
	known_release(waiting->answers[1]);
	free(waiting);
}

/* Answers the query, once. */
static void waiting_finish(struct waiting *waiting, double now)
{
	struct resolver *resolver = waiting->resolver;
	struct query *query = &waiting->query;
	if (waiting->is_done)
		return;
	waiting->is_done = 1;
	leave_second(waiting);
	if (!query->asker->is_gone && !waiting->is_unwanted) {
		if (waiting->answers[0]) {
			answer_query(resolver, query, waiting->answers[0], waiting->answers[1], now);
		} else {
			query->asker->counts.unanswered++;
			answer_error(resolver, query, CODE_SERVFAIL);
		}
	}
	place_leave(resolver, query->asker, now);
	asker_release(query->asker);
}

static void own_came(struct waiter *waiter, struct known *known, double now)
{
	struct waiting *waiting = (struct waiting *)((char *)waiter - offsetof(struct waiting, own));
	waiting->own_is_due = 0;
	waiting->answers[0] = known ? known_hold(known) : NULL;
	if (waiting->other_is_due && known && known->facts.count)
		join_second(waiting, now);
	else
		waiting_finish(waiting, now);
	if (!waiting->other_is_due)
		waiting_free(waiting);
}

static void other_came(struct waiter *waiter, struct known *known, double now)
{
	struct waiting *waiting = (struct waiting *)((char *)waiter - offsetof(struct waiting, other));
	waiting->other_is_due = 0;
	waiting->answers[1] = known ? known_hold(known) : NULL;
	if (waiting->own_is_due)
		return;
	waiting_finish(waiting, now);
	waiting_free(waiting);
}

/* Writes the question for the other family of the name's addresses, which the relay dials too, whichever was asked for.
 * Returns 0 if it isn't needed: without IPv6, only IPv4 can be dialled. */
static int other_family(const struct resolver *resolver, const struct question *asked, const uint8_t *folded, uint8_t *out)
{
	if (!asked->host[0] || !(asked->kind == TYPE_AAAA || (asked->kind == TYPE_A && resolver->has_v6)))
		return 0;
	memcpy(out, folded, asked->length);
	out[asked->length - 3] = asked->kind == TYPE_A ? TYPE_AAAA : TYPE_A;
	return 1;
}

static void fold(const struct question *asked, const uint8_t *question, uint8_t *out)
{
	for (uint32_t i = 0; i < asked->length; i++)
		out[i] = i + 4 < asked->length && question[i] >= 'A' && question[i] <= 'Z' ? question[i] | 0x20 : question[i];
}

/* Asks upstream. The query has its place. */
static void waiting_start(struct waiting *waiting, double now)
{
	struct resolver *resolver = waiting->resolver;
	const struct question *asked = &waiting->query.asked;
	uint8_t own[260], other[260];
	fold(asked, waiting->question, own);
	waiting->own = (struct waiter){.then = own_came};
	waiting->other = (struct waiter){.then = other_came};
	waiting->query.asker->references++;
	waiting->before = NULL;
	waiting->after = resolver->begun;
	if (waiting->after)
		waiting->after->before = waiting;
	resolver->begun = waiting;
	waiting->own_is_due = 1;
	if (other_family(resolver, asked, own, other)) {
		struct known *known = cache_get(resolver->cache, other, asked->length, now);
		waiting->other_is_due = !known || known->length;
	}
	if (waiting->other_is_due)
		upstream_ask(resolver->upstream, other, asked->length, &waiting->other, now);
	upstream_ask(resolver->upstream, own, asked->length, &waiting->own, now);
}

/* Answers the query if the answer is known, and that of the other family too. Returns 0 if not. */
static int answer_from_cache(struct resolver *resolver, const struct query *query, double now)
{
	uint8_t folded[260], second[260];
	uint32_t length = query->asked.length;
	struct known *own, *other = NULL;
	fold(&query->asked, query->question, folded);
	own = cache_get(resolver->cache, folded, length, now);
	if (!own || !own->length)
		return 0;
	if (own->facts.count && other_family(resolver, &query->asked, folded, second)) {
		other = cache_get(resolver->cache, second, length, now);
		if (!other)
			return 0;
	}
	answer_query(resolver, query, own, other, now);
	return 1;
}

static void place_await(struct waiting *waiting)
{
	struct asker *asker = waiting->query.asker;
	asker->counts.over_budget++;
	waiting->next = NULL;
	*asker->last_patient = waiting;
	asker->last_patient = &waiting->next;
}

void query_pass(struct resolver *resolver, const struct query *query, double now)
{
	struct asker *asker = query->asker;
	if (answer_from_cache(resolver, query, now))
		return;
	int has_place = asker->places < asker->budget.queries;
	struct waiting *waiting = has_place || query->token ? waiting_new(resolver, query) : NULL;
	if (!waiting) {
		answer_over_budget(resolver, query);
	} else if (has_place) {
		asker->places++;
		waiting_start(waiting, now);
	} else {
		place_await(waiting);
	}
}

/* ---- for Python ---- */

static void wish_came(struct waiter *waiter, struct known *known, double now)
{
	struct wish *wish = (struct wish *)waiter;
	struct resolver_event *event = event_add(wish->resolver, RESOLVER_ANSWER, known ? known_message(known) : NULL,
	                                         known ? known->length : 0);
	if (event) {
		event->token = wish->token;
		event->came = known ? known->came : now;
		if (known)
			event->facts = known->facts;
	}
	*wish->link = wish->next;
	if (wish->next)
		wish->next->link = wish->link;
	free(wish);
}

void wish_begin(struct resolver *resolver, uint64_t token, const uint8_t *question, uint32_t length, double now)
{
	struct wish *wish = calloc(1, sizeof *wish);
	if (!wish)
		return;
	*wish = (struct wish){.waiter = {.then = wish_came}, .next = resolver->wishes, .link = &resolver->wishes,
	                      .resolver = resolver, .token = token};
	if (wish->next)
		wish->next->link = &wish->next;
	resolver->wishes = wish;
	upstream_ask(resolver->upstream, question, length, &wish->waiter, now);
}

int place_take(struct resolver *resolver, const struct query *query)
{
	int has_place = query->asker->places < query->asker->budget.queries;
	struct waiting *waiting = has_place ? NULL : waiting_new(resolver, query);
	if (waiting)
		place_await(waiting);
	else
		query->asker->places++;
	return !waiting;
}

int query_withdraw(struct resolver *resolver, struct asker *asker, uint64_t token)
{
	for (struct waiting **link = &asker->patient; *link; link = &(*link)->next) {
		struct waiting *waiting = *link;
		if (waiting->query.token != token)
			continue;
		*link = waiting->next;
		if (!*link)
			asker->last_patient = link;
		free(waiting);
		return 1;
	}
	for (struct waiting *waiting = resolver->begun; waiting; waiting = waiting->after)
		if (waiting->query.token == token)
			waiting->is_unwanted = 1;
	return 0;
}

/* ---- ends ---- */

double waiting_deadline(const struct resolver *resolver)
{
	return resolver->second ? resolver->second->until : INFINITY;
}

void waiting_expire(struct resolver *resolver, double now)
{
	while (resolver->second && resolver->second->until <= now)
		waiting_finish(resolver->second, now);
}

void patient_free(struct asker *asker)
{
	while (asker->patient) {
		struct waiting *gone = asker->patient;
		asker->patient = gone->next;
		free(gone);
	}
	asker->last_patient = &asker->patient;
}


void waiting_free_all(struct resolver *resolver)
{
	while (resolver->begun) {
		struct waiting *waiting = resolver->begun;
		if (!waiting->is_done)
			asker_release(waiting->query.asker);
		waiting_free(waiting);
	}
	for (struct wish *wish = resolver->wishes, *next; wish; wish = next) {
		next = wish->next;
		free(wish);
	}
	for (uint32_t i = 0; i < ASKER_BUCKETS; i++)
		for (struct asker *asker = resolver->askers.buckets[i]; asker; asker = asker->next)
			patient_free(asker);
}
