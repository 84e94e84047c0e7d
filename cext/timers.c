/* SPDX-License-Identifier: Apache-2.0
 *
 * A binary heap of timers. Owns the heap, not the timers; called by flow.c.
 */
#include <stdlib.h>

#include "timers.h"

int timers_reserve(struct timers *timers, uint32_t count)
{
	if (count <= timers->room)
		return 1;
	uint32_t room = timers->room ? timers->room : 64;
	while (room < count)
		room *= 2;
	struct timer **heap = realloc(timers->heap, (room + 1) * sizeof(struct timer *));
	if (!heap)
		return 0;
	timers->heap = heap;
	timers->room = room;
	return 1;
}

void timers_free(struct timers *timers)
{
	free(timers->heap);
	*timers = (struct timers){0};
}

static void put(struct timers *timers, struct timer *timer, uint32_t place)
{
	timers->heap[place] = timer;
	timer->place = place;
}

static uint32_t rise(struct timers *timers, uint32_t place, double when)
{
	for (; place > 1 && timers->heap[place / 2]->when > when; place /= 2)
		put(timers, timers->heap[place / 2], place);
	return place;
}

static uint32_t sink(struct timers *timers, uint32_t place, double when)
{
	for (uint32_t child; (child = place * 2) <= timers->count; place = child) {
		if (child < timers->count && timers->heap[child + 1]->when < timers->heap[child]->when)
			child++;
		if (timers->heap[child]->when >= when)
			break;
		put(timers, timers->heap[child], place);
	}
	return place;
}

/* Puts a timer into the hole at `place`. */
static void settle(struct timers *timers, struct timer *timer, uint32_t place)
{
	place = rise(timers, place, timer->when);
	put(timers, timer, sink(timers, place, timer->when));
}

void timer_set(struct timers *timers, struct timer *timer, double when)
{
	timer->when = when;
	settle(timers, timer, timer->place ? timer->place : ++timers->count);
}

void timer_clear(struct timers *timers, struct timer *timer)
{
	uint32_t hole = timer->place;
	if (!hole)
		return;
	timer->place = 0;
	struct timer *last = timers->heap[timers->count--];
	if (last != timer)
		settle(timers, last, hole);
}

struct timer *timers_first(const struct timers *timers)
{
	return timers->count ? timers->heap[1] : NULL;
}
