/* SPDX-License-Identifier: Apache-2.0
 *
 * The cache of upstream's answers: a hash table, and a list in the order of use. cache.h names the callers.
 */
#include <stdlib.h>
#include <string.h>

#include "cache.h"

#define BYTES_PER_BUCKET 1024
#define BUCKETS_LEAST 256

struct cache {
	uint64_t seed, size, used;   /* bytes */
	uint32_t buckets;            /* a power of two */
	struct known **chains;
	struct known *oldest, *newest;
};

struct cache *cache_new(uint64_t size, uint64_t seed)
{
	struct cache *cache = calloc(1, sizeof *cache);
	if (!cache)
		return NULL;
	cache->seed = seed;
	cache->size = size;
	cache->buckets = BUCKETS_LEAST;
	while (cache->buckets < size / BYTES_PER_BUCKET && cache->buckets < 1u << 30)
		cache->buckets *= 2;
	if (!(cache->chains = calloc(cache->buckets, sizeof *cache->chains))) {
		free(cache);
		return NULL;
	}
	return cache;
}

uint32_t question_hash(uint64_t seed, const uint8_t *question, uint32_t length)
{
	uint64_t hash = seed;
	for (uint32_t i = 0; i < length; i++)
		hash = (hash ^ question[i]) * 0x9e3779b97f4a7c15u, hash ^= hash >> 29;
	return (uint32_t)(hash >> 32);
}

/* ---- one answer ---- */

struct known *known_new(const uint8_t *question, uint32_t question_length, const uint8_t *message, uint32_t length,
                        const struct answer *facts, double now)
{
	struct known *known = calloc(1, sizeof *known + question_length + length);
	if (!known)
		return NULL;
	known->references = 1;
	known->question_length = question_length;
	known->length = length;
	known->came = now;
	known->facts = *facts;
	known->until = now + facts->ttl;
	memcpy(known->bytes, question, question_length);
	if (length)
		memcpy(known->bytes + question_length, message, length);
	return known;
}

struct known *known_hold(struct known *known)
{
	known->references++;
	return known;
}

void known_release(struct known *known)
{
	if (known && --known->references == 0)
		free(known);
}

/* ---- the table ---- */

static struct known **place_of(const struct cache *cache, const uint8_t *question, uint32_t length)
{
	struct known **link = &cache->chains[question_hash(cache->seed, question, length) & (cache->buckets - 1)];
	while (*link && ((*link)->question_length != length || memcmp((*link)->bytes, question, length) != 0))
		link = &(*link)->next;
	return link;
}

static uint64_t size_of(const struct known *known)
{
	return sizeof *known + known->question_length + known->length;
}

static void leave_order(struct cache *cache, struct known *known)
{
	*(known->older ? &known->older->newer : &cache->oldest) = known->newer;
	*(known->newer ? &known->newer->older : &cache->newest) = known->older;
}

static void join_order(struct cache *cache, struct known *known)
{
	known->newer = NULL;
	known->older = cache->newest;
	*(cache->newest ? &cache->newest->newer : &cache->oldest) = known;
	cache->newest = known;
}

static void drop(struct cache *cache, struct known **link)
{
	struct known *gone = *link;
	*link = gone->next;
	leave_order(cache, gone);
	cache->used -= size_of(gone);
	known_release(gone);
}

void cache_put(struct cache *cache, struct known *known)
{
	struct known **link = place_of(cache, known->bytes, known->question_length);
	if (*link)
		drop(cache, link);
	link = place_of(cache, known->bytes, known->question_length);
	known->next = NULL;
	*link = known_hold(known);
	join_order(cache, known);
	cache->used += size_of(known);
	while (cache->used > cache->size)
		drop(cache, place_of(cache, cache->oldest->bytes, cache->oldest->question_length));
}

struct known *cache_get(struct cache *cache, const uint8_t *question, uint32_t length, double now)
{
	struct known **link = place_of(cache, question, length), *known = *link;
	if (!known)
		return NULL;
	if (now >= known->until) {
		drop(cache, link);
		return NULL;
	}
	leave_order(cache, known);
	join_order(cache, known);
	return known;
}

void cache_free(struct cache *cache)
{
	if (!cache)
		return;
	while (cache->oldest)
		drop(cache, place_of(cache, cache->oldest->bytes, cache->oldest->question_length));
	free(cache->chains);
	free(cache);
}
