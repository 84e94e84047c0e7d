/* Deadlines of a thread, the earliest first: a heap.
 *
 * Pure. A timer stands inside its owner, once; setting one is logarithmic. Called by flow.c and thread.c.
 */
#ifndef PYINTERCEPTOR_TIMERS_H
#define PYINTERCEPTOR_TIMERS_H

#include <stdint.h>

struct timer {
	double when;              /* seconds, CLOCK_MONOTONIC */
	uint32_t place;           /* in the heap, from 1; 0: not set. Private. */
	uint32_t reserved;
};

struct timers {
	struct timer **heap;
	uint32_t count, room;
};

/* Makes room for so many timers in all. Returns 0 without memory. */
int timers_reserve(struct timers *timers, uint32_t count);
void timers_free(struct timers *timers);

/* Sets a timer, or moves it. There is room for it. */
void timer_set(struct timers *timers, struct timer *timer, double when);
void timer_clear(struct timers *timers, struct timer *timer);

/* The earliest one, or NULL. */
struct timer *timers_first(const struct timers *timers);

#endif
