/* struct relay. Only the files that implement relay.h read it.
 *
 * `lock` guards the lists of containers and the events.
 */
#ifndef PYINTERCEPTOR_STATE_H
#define PYINTERCEPTOR_STATE_H

#include "container.h"
#include "thread.h"

#define CONTAINER_BUCKETS 1024 /* a power of two: containers and interfaces are numbered one after the other */

struct relay {
	struct relay_options options;
	int event_fd;
	_Atomic int listeners[CAPTURES_MAX]; /* -1 where there is none */
	uint32_t thread_count;
	struct thread threads[THREADS_MAX];
	atomic_int is_closing;
	_Atomic uint64_t numbers;
	pthread_mutex_t lock;
	struct container *containers[CONTAINER_BUCKETS]; /* by number */
	struct container *by_interface[CONTAINER_BUCKETS];
	struct relay_event *events; /* a ring of EVENTS_MAX */
	uint32_t first_event, event_count;
	struct records *records;
	struct counters counters;
};

double now(void); /* seconds, CLOCK_MONOTONIC */

#endif
