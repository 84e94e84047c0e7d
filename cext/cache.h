/* Keeps upstream's answers for as long as their TTL permits, denials included (RFC 2308).
 *
 * Pure; owns its memory. Called by upstream and resolver, with one lock around all of them; the caller passes the time.
 * Questions are in lower case.
 */
#ifndef PYINTERCEPTOR_CACHE_H
#define PYINTERCEPTOR_CACHE_H

#include "message.h"

/* Upstream's answer to one question. Each user holds a reference. */
struct known {
	struct known *next;          /* in its hash chain */
	struct known *older, *newer; /* in the order of their use */
	uint32_t references;
	uint32_t question_length;
	uint32_t length;             /* of the message; 0: no answer that may be kept came, and this is remembered instead */
	double came, until;          /* seconds */
	struct answer facts;
	uint8_t bytes[];             /* the question, then the message */
};

struct cache;

/* `size` is in bytes. `seed` must be random: questions come from containers, which could otherwise choose them to collide
 * in one hash chain. Returns NULL if memory is short. */
struct cache *cache_new(uint64_t size, uint64_t seed);
void cache_free(struct cache *cache);

uint32_t question_hash(uint64_t seed, const uint8_t *question, uint32_t length);

/* Returns an answer with one reference; NULL if memory is short. */
struct known *known_new(const uint8_t *question, uint32_t question_length, const uint8_t *message, uint32_t length,
                        const struct answer *facts, double now);
struct known *known_hold(struct known *known);
void known_release(struct known *known); /* NULL is allowed */

static inline const uint8_t *known_message(const struct known *known)
{
	return known->bytes + known->question_length;
}

/* Keeps an answer until its `until`, with a reference of its own, in place of an earlier one to the question. When `size`
 * bytes are used, the least recently used answers are dropped. */
void cache_put(struct cache *cache, struct known *known);

/* Returns the answer, borrowed until the next call of cache_put(); NULL if there is none, or if its time is over. */
struct known *cache_get(struct cache *cache, const uint8_t *question, uint32_t length, double now);

#endif
