/* SPDX-License-Identifier: Apache-2.0
 *
 * Places in a pool, with a reserve for each container. places.h names the owners and callers.
 */
#include <string.h>

#include "places.h"

void pool_open(struct pool *pool, uint32_t total)
{
	pthread_mutex_init(&pool->lock, NULL);
	pool->total = total;
	pool->reserved = pool->committed = 0;
}

void pool_close(struct pool *pool)
{
	pthread_mutex_destroy(&pool->lock);
}

static uint32_t larger(uint32_t one, uint32_t other)
{
	return one > other ? one : other;
}

/* Changes the used places and the reserve. The caller holds the lock. */
static void set(struct holding *holding, uint32_t used, uint32_t reserve)
{
	holding->pool->committed -= larger(holding->used, holding->reserve);
	holding->pool->committed += larger(used, reserve);
	holding->pool->reserved += reserve - holding->reserve;
	__atomic_store_n(&holding->used, used, __ATOMIC_RELAXED);
	holding->reserve = reserve;
}

/* Returns the places that are kept for the reserves of containers that join later. */
static uint32_t kept(const struct pool *pool)
{
	uint32_t part = pool->total / 4;
	return part > pool->reserved ? part - pool->reserved : 0;
}

/* The caller holds the lock. */
static int take(struct holding *holding, uint32_t count)
{
	const struct pool *pool = holding->pool;
	uint64_t used = (uint64_t)holding->used + count, before = larger(holding->used, holding->reserve);
	if (used > holding->limit)
		return 0;
	if (used > holding->reserve && pool->committed + (used - before) + kept(pool) > pool->total)
		return 0;
	set(holding, (uint32_t)used, holding->reserve);
	return 1;
}

int holding_join(struct holding *holding, struct pool *pool, uint32_t reserve, uint32_t limit)
{
	memset(holding, 0, sizeof *holding);
	holding->pool = pool;
	holding->limit = limit;
	if (reserve > limit)
		reserve = limit;
	pthread_mutex_lock(&pool->lock);
	int has_room = (uint64_t)pool->committed + reserve <= pool->total;
	if (has_room)
		set(holding, 0, reserve);
	pthread_mutex_unlock(&pool->lock);
	return has_room;
}

void holding_leave(struct holding *holding)
{
	pthread_mutex_lock(&holding->pool->lock);
	set(holding, holding->used - holding->lent, 0);
	holding->lent = 0;
	holding->has_left = 1;
	pthread_mutex_unlock(&holding->pool->lock);
}

uint32_t places_used(const struct holding *holding)
{
	return __atomic_load_n(&holding->used, __ATOMIC_RELAXED);
}

int places_take(struct holding *holding, uint32_t count)
{
	pthread_mutex_lock(&holding->pool->lock);
	int is_taken = take(holding, count);
	pthread_mutex_unlock(&holding->pool->lock);
	return is_taken;
}

void places_give(struct holding *holding, uint32_t count)
{
	pthread_mutex_lock(&holding->pool->lock);
	set(holding, holding->used - count, holding->reserve);
	pthread_mutex_unlock(&holding->pool->lock);
}

int places_lend(struct holding *holding, uint32_t count)
{
	pthread_mutex_lock(&holding->pool->lock);
	int is_taken = !holding->has_left && take(holding, count);
	holding->lent += is_taken ? count : 0;
	pthread_mutex_unlock(&holding->pool->lock);
	return is_taken;
}

int places_pass(struct holding *holding)
{
	pthread_mutex_lock(&holding->pool->lock);
	int is_passed = !holding->has_left;
	holding->lent += (uint32_t)is_passed;
	pthread_mutex_unlock(&holding->pool->lock);
	return is_passed;
}

void places_return(struct holding *holding, uint32_t count)
{
	pthread_mutex_lock(&holding->pool->lock);
	if (!holding->has_left) {
		holding->lent -= count;
		set(holding, holding->used - count, holding->reserve);
	}
	pthread_mutex_unlock(&holding->pool->lock);
}
