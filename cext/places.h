/* Places: a pool of flows or of descriptors, of which each container has a reserve.
 *
 * A container takes places from its reserve as long as it has any there; above, it takes only places that are free
 * beyond all containers' reserves. A quarter of the places is for reserves alone: until they fill it, containers can join
 * whatever the others use. Pure but for the lock. Called from any thread.
 */
#ifndef PYINTERCEPTOR_PLACES_H
#define PYINTERCEPTOR_PLACES_H

#include <pthread.h>
#include <stdint.h>

struct pool {
	pthread_mutex_t lock;     /* guards the pool and its holdings */
	uint32_t total, reserved; /* places, and the sum of all reserves */
	uint32_t committed;       /* the sum over all holdings: the places used, or the reserve if it is larger */
};

/* The part of one container. */
struct holding {
	struct pool *pool;
	uint32_t used, reserve, limit;
	uint32_t lent;            /* places of `used` that Python holds */
	uint8_t has_left;
};

void pool_open(struct pool *pool, uint32_t total);
void pool_close(struct pool *pool);

/* Returns 1, or 0 if no reserve is left. `limit` is the most that the container may use. */
int holding_join(struct holding *holding, struct pool *pool, uint32_t reserve, uint32_t limit);

/* Gives back the reserve, and the places that are lent. Used places are given back one by one, as before. */
void holding_leave(struct holding *holding);

/* Takes places. Returns 1, or 0 if fewer are left: then it takes none. */
int places_take(struct holding *holding, uint32_t count);
void places_give(struct holding *holding, uint32_t count);

/* Returns the used places, without the lock. */
uint32_t places_used(const struct holding *holding);

/* Takes places for Python, or moves a used place to it. Return 1, or 0 if too few are left or the holding has left. */
int places_lend(struct holding *holding, uint32_t count);
int places_pass(struct holding *holding);

/* Takes back places that were lent. Does nothing after the holding has left. */
void places_return(struct holding *holding, uint32_t count);

#endif
