/* struct relay. Included only by the files that implement relay.h.
 *
 * `lock` guards the hash tables of containers and the events, and serialises relay_listen().
 */
#ifndef PYINTERCEPTOR_STATE_H
#define PYINTERCEPTOR_STATE_H

#include "container.h"
#include "thread.h"

/* A power of two. Containers and interfaces are numbered consecutively, so a number's low bits select its bucket. */
#define CONTAINER_BUCKETS 1024

struct relay {
	struct relay_options options;
	int event_fd;
	_Atomic int listeners[CAPTURES_MAX]; /* -1: none */
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
	struct pool flows, descriptors;
	struct ports ports;
	double looked_at_range; /* seconds, CLOCK_MONOTONIC; of the first thread */
};

double now(void); /* seconds, CLOCK_MONOTONIC */

#endif
