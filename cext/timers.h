/* The deadlines of a thread: a heap with the earliest on top.
 *
 * Pure, except for memory. A timer is a member of its owner. Setting and clearing one take logarithmic time. Called by
 * flow.c.
 */
#ifndef PYINTERCEPTOR_TIMERS_H
#define PYINTERCEPTOR_TIMERS_H

#include <stdint.h>

struct timer {
	double when;              /* seconds, CLOCK_MONOTONIC */
	uint32_t place;           /* index in the heap, from 1; 0: not set. Only timers.c changes it. */
	uint32_t reserved;
};

struct timers {
	struct timer **heap;
	uint32_t count, room;
};

/* Makes room for `count` timers in total. Returns 1, or 0 if memory is short. */
int timers_reserve(struct timers *timers, uint32_t count);
void timers_free(struct timers *timers);

/* Sets a timer, or moves it. The caller must have reserved room for it. */
void timer_set(struct timers *timers, struct timer *timer, double when);
void timer_clear(struct timers *timers, struct timer *timer);

/* Returns the earliest timer, or NULL if none is set. */
struct timer *timers_first(const struct timers *timers);

#endif
