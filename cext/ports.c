/* SPDX-License-Identifier: Apache-2.0
 *
 * Local ports by destination, with a share for each container. Owns the uses and the resting ports; ports.h names the
 * callers.
 */
#include <stdlib.h>
#include <string.h>

#include "ports.h"

/* A use is freed when no port, queue or other use needs it. */
struct port_use {
	struct port_use *next; /* in its bucket */
	struct port_use *all;  /* the sum over all containers; NULL: this is such a sum */
	struct endpoint to;
	uint32_t container;    /* 0: the sum */
	uint32_t used;         /* ports that are open or rest */
	uint32_t containers;   /* of a sum: the uses that it adds up */
	struct resting *reusable, *last_reusable;
	struct port_wait *first, *last;
};

struct resting {
	struct resting *next, *previous; /* in the list of all, the oldest first */
	struct resting *next_reusable;   /* in its use's list, in the same order */
	struct port_use *use;
	double until;
	uint16_t number;                 /* 0: not reusable */
};

void ports_open(struct ports *ports, uint64_t seed)
{
	memset(ports, 0, sizeof *ports);
	pthread_mutex_init(&ports->lock, NULL);
	ports->seed = seed;
}

void ports_set(struct ports *ports, uint32_t first, uint32_t total)
{
	pthread_mutex_lock(&ports->lock);
	ports->first = first;
	ports->total = total;
	pthread_mutex_unlock(&ports->lock);
}

uint32_t ports_range(struct ports *ports)
{
	pthread_mutex_lock(&ports->lock);
	uint32_t last = ports->first + ports->total - 1, range = ports->first ? ports->first | last << 16 : 0;
	pthread_mutex_unlock(&ports->lock);
	return range;
}

/* ---- uses ---- */

static struct port_use **bucket(struct ports *ports, uint32_t container, const struct endpoint *to)
{
	uint64_t hash = ports->seed ^ ((uint64_t)container << 16) ^ to->port;
	for (int i = 0; i < 16; i++)
		hash = (hash ^ to->address[i]) * 0x9e3779b97f4a7c15u, hash ^= hash >> 29;
	return &ports->buckets[(hash >> 32) & (PORT_BUCKETS - 1)];
}

static int is_same(const struct endpoint *one, const struct endpoint *other)
{
	return one->port == other->port && memcmp(one->address, other->address, sizeof one->address) == 0;
}

/* Returns the use, a new one if there is none, or NULL if memory is short. */
static struct port_use *use_of(struct ports *ports, uint32_t container, const struct endpoint *to)
{
	struct port_use **first = bucket(ports, container, to), *use = *first;
	while (use && (use->container != container || !is_same(&use->to, to)))
		use = use->next;
	if (use || !(use = calloc(1, sizeof *use)))
		return use;
	use->container = container;
	use->to = *to;
	use->next = *first;
	*first = use;
	return use;
}

static void free_unused(struct ports *ports, struct port_use *use)
{
	if (use->used || use->first || use->containers)
		return;
	struct port_use **link = bucket(ports, use->container, &use->to), *all = use->all;
	while (*link != use)
		link = &(*link)->next;
	*link = use->next;
	free(use);
	if (all) {
		all->containers--;
		free_unused(ports, all);
	}
}

static struct port_use *use_and_sum(struct ports *ports, uint32_t container, const struct endpoint *to)
{
	struct port_use *use = use_of(ports, container, to);
	if (!use || use->all)
		return use;
	use->all = use_of(ports, 0, to);
	if (use->all) {
		use->all->containers++;
		return use;
	}
	free_unused(ports, use);
	return NULL;
}

static void add(struct port_use *use, int32_t count)
{
	use->used += (uint32_t)count;
	use->all->used += (uint32_t)count;
}

/* ---- the queue ---- */

static int nudge(struct port_wait *wait)
{
	if (!wait || wait->is_nudged)
		return -1;
	wait->is_nudged = 1;
	wait->next_nudged = wait->nudges->first;
	wait->nudges->first = wait;
	return wait->nudges->wake;
}

static void enqueue(struct port_use *use, struct port_wait *wait)
{
	wait->use = use;
	wait->next = NULL;
	wait->previous = use->last;
	*(use->last ? &use->last->next : &use->first) = wait;
	use->last = wait;
}

/* Removes a connection from its queue, and nudges the new first one. */
static int dequeue(struct port_wait *wait)
{
	struct port_use *use = wait->use;
	int was_first = use->first == wait;
	*(wait->previous ? &wait->previous->next : &use->first) = wait->next;
	*(wait->next ? &wait->next->previous : &use->last) = wait->previous;
	wait->use = NULL;
	return was_first ? nudge(use->first) : -1;
}

static void forget_nudge(struct port_wait *wait)
{
	struct port_wait **link = &wait->nudges->first;
	if (!wait->is_nudged)
		return;
	while (*link != wait)
		link = &(*link)->next_nudged;
	*link = wait->next_nudged;
	wait->is_nudged = 0;
}

int ports_leave(struct ports *ports, struct port_wait *wait)
{
	int wake = -1;
	pthread_mutex_lock(&ports->lock);
	struct port_use *use = wait->use;
	if (use) {
		forget_nudge(wait);
		wake = dequeue(wait);
		free_unused(ports, use);
	}
	pthread_mutex_unlock(&ports->lock);
	return wake;
}

int ports_is_first(struct ports *ports, const struct port_wait *wait)
{
	pthread_mutex_lock(&ports->lock);
	int is_first = !wait->use || wait->use->first == wait; /* without a use, memory was short: it isn't queued */
	pthread_mutex_unlock(&ports->lock);
	return is_first;
}

uint64_t ports_nudged(struct ports *ports, struct nudges *nudges)
{
	pthread_mutex_lock(&ports->lock);
	struct port_wait *wait = nudges->first;
	if (wait) {
		nudges->first = wait->next_nudged;
		wait->is_nudged = 0;
	}
	pthread_mutex_unlock(&ports->lock);
	return wait ? wait->cookie : 0;
}

/* ---- resting ports ---- */

static void unlink_resting(struct ports *ports, struct resting *resting)
{
	*(resting->previous ? &resting->previous->next : &ports->oldest) = resting->next;
	*(resting->next ? &resting->next->previous : &ports->newest) = resting->previous;
}

static void drop_reusable(struct port_use *use)
{
	use->reusable = use->reusable->next_reusable;
	if (!use->reusable)
		use->last_reusable = NULL;
}

/* Frees the resting ports whose time is over: those at the beginning of the list. The first reusable one of a use is the
 * oldest of them, so it is at the beginning of its use's list as well. */
static void expire(struct ports *ports, double now)
{
	for (struct resting *resting; (resting = ports->oldest) && resting->until <= now;) {
		struct port_use *use = resting->use;
		unlink_resting(ports, resting);
		if (resting->number)
			drop_reusable(use);
		free(resting);
		add(use, -1);
		free_unused(ports, use);
	}
}

int ports_rest(struct ports *ports, struct port_use *use, uint16_t number, double now)
{
	struct resting *resting = calloc(1, sizeof *resting);
	if (!resting)
		return ports_give(ports, use);
	pthread_mutex_lock(&ports->lock);
	*resting = (struct resting){.use = use, .until = now + REST, .number = number, .previous = ports->newest};
	*(ports->newest ? &ports->newest->next : &ports->oldest) = resting;
	ports->newest = resting;
	if (number) {
		*(use->last_reusable ? &use->last_reusable->next_reusable : &use->reusable) = resting;
		use->last_reusable = resting;
	}
	int wake = number ? nudge(use->first) : -1;
	pthread_mutex_unlock(&ports->lock);
	return wake;
}

static uint16_t take_resting(struct ports *ports, struct port_use *use)
{
	struct resting *resting = use->reusable;
	uint16_t number = resting->number;
	drop_reusable(use);
	unlink_resting(ports, resting);
	free(resting);
	return number;
}

/* ---- ports ---- */

static int may_add(const struct ports *ports, const struct port_use *use, uint32_t limit)
{
	uint32_t all = use->all->used, free_ports = ports->total > all ? ports->total - all : 0;
	return use->used < limit && use->used < free_ports;
}

static struct port_use *take(struct ports *ports, struct port_use *use, uint32_t limit, struct port_wait *wait,
                             uint16_t *number)
{
	int is_turn = !wait || !use->first || use->first == wait;
	*number = 0;
	if (is_turn && may_add(ports, use, limit)) {
		add(use, 1);
	} else if (is_turn && use->reusable) {
		*number = take_resting(ports, use);
	} else {
		if (wait && !wait->use)
			enqueue(use, wait);
		return NULL;
	}
	return use;
}

struct port_use *ports_take(struct ports *ports, uint32_t container, uint32_t limit, const struct endpoint *to, double now,
                            struct port_wait *wait, uint16_t *number)
{
	pthread_mutex_lock(&ports->lock);
	expire(ports, now);
	struct port_use *use = use_and_sum(ports, container, to), *taken = NULL;
	if (use && !(taken = take(ports, use, limit, wait, number)))
		free_unused(ports, use);
	pthread_mutex_unlock(&ports->lock);
	return taken;
}

int ports_give(struct ports *ports, struct port_use *use)
{
	pthread_mutex_lock(&ports->lock);
	add(use, -1);
	int wake = nudge(use->first);
	free_unused(ports, use);
	pthread_mutex_unlock(&ports->lock);
	return wake;
}

void ports_close(struct ports *ports)
{
	for (struct resting *next, *resting = ports->oldest; resting; resting = next) {
		next = resting->next;
		free(resting);
	}
	for (uint32_t i = 0; i < PORT_BUCKETS; i++)
		for (struct port_use *next, *use = ports->buckets[i]; use; use = next) {
			next = use->next;
			free(use);
		}
	pthread_mutex_destroy(&ports->lock);
}
