/* SPDX-License-Identifier: Apache-2.0
 *
 * Opens and closes the relay: owns struct relay, its threads, events and records. Called by Python.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "events.h"
#include "range.h"
#include "state.h"

#define FILES_MAX 1000000 /* descriptors that are counted on, if the kernel allows more */
#define CONTAINERS 1000   /* attached ones for which the default reserve leaves room */

double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void set_default(double *seconds, double choice)
{
	if (*seconds == 0)
		*seconds = choice;
}

static void set_defaults(struct relay_options *options)
{
	struct rlimit files;
	long cores = sysconf(_SC_NPROCESSORS_ONLN);
	if (options->threads == 0)
		options->threads = cores > 1 ? 2 : 1;
	if (options->threads > THREADS_MAX)
		options->threads = THREADS_MAX;
	uint32_t limit = getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < FILES_MAX ? (uint32_t)files.rlim_cur : FILES_MAX;
	if (options->flows == 0)
		options->flows = limit * 3 / 8;
	if (options->descriptors == 0)
		options->descriptors = limit * 3 / 4;
	if (options->reserve == 0)
		options->reserve = options->flows < 2 * CONTAINERS ? 1 : options->flows / CONTAINERS;
	set_default(&options->opening_deadline, 10);
	set_default(&options->sniff_wait, 0.5);
	set_default(&options->idle_deadline, 3600);
	set_default(&options->dial_deadline, 15);
	set_default(&options->linger_deadline, 120);
	set_default(&options->close_deadline, 10);
	set_default(&options->settle_deadline, 0.5);
	options->content_methods[CONTENT_METHODS_MAX - 1] = 0;
}

struct relay_options relay_options_of(const struct relay *relay)
{
	return relay->options;
}

struct relay *relay_open(const struct relay_options *options)
{
	struct relay *relay = calloc(1, sizeof *relay);
	if (!relay)
		return NULL;
	relay->options = *options;
	set_defaults(&relay->options);
	for (int i = 0; i < CAPTURES_MAX; i++)
		relay->listeners[i] = -1;
	pthread_mutex_init(&relay->lock, NULL);
	pool_open(&relay->flows, relay->options.flows);
	pool_open(&relay->descriptors, relay->options.descriptors);
	uint64_t seed = 0;
	int error = getrandom(&seed, sizeof seed, 0) == sizeof seed ? 0 : EIO;
	ports_open(&relay->ports, seed);
	range_read(&relay->ports, relay->options.ports);
	relay->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!error && relay->event_fd < 0)
		error = errno;
	if (!error && !(relay->records = records_new()))
		error = errno;
	if (!error && !(relay->events = calloc(EVENTS_MAX, sizeof *relay->events)))
		error = ENOMEM;
	while (!error && relay->thread_count < relay->options.threads) {
		struct thread *thread = &relay->threads[relay->thread_count];
		error = thread_prepare(thread, relay, relay->thread_count) < 0 ? errno : thread_start(thread);
		if (error)
			thread_dispose(thread);
		else
			relay->thread_count++;
	}
	if (error) {
		relay_close(relay);
		errno = error;
		return NULL;
	}
	return relay;
}

int relay_listen(struct relay *relay, int listener)
{
	int capture = 0, error = 0;
	pthread_mutex_lock(&relay->lock);
	while (capture < CAPTURES_MAX && relay->listeners[capture] >= 0)
		capture++;
	if (capture < CAPTURES_MAX)
		relay->listeners[capture] = listener;
	else
		error = ENOSPC;
	for (uint32_t i = 0; i < relay->thread_count && !error; i++)
		if (thread_listen(&relay->threads[i], (uint32_t)capture) < 0)
			error = errno;
	pthread_mutex_unlock(&relay->lock);
	return error ? -error : capture;
}

void relay_close(struct relay *relay)
{
	struct relay_event event;
	atomic_store(&relay->is_closing, 1);
	wake_threads(relay);
	for (uint32_t i = 0; i < relay->thread_count; i++) {
		pthread_join(relay->threads[i].id, NULL);
		thread_dispose(&relay->threads[i]);
	}
	while (relay_take(relay, &event, 1))
		if (event.fd >= 0)
			close(event.fd);
	for (uint32_t i = 0; i < CONTAINER_BUCKETS; i++)
		for (struct container *container = relay->containers[i], *next; container; container = next) {
			next = container->next;
			container_release(container);
		}
	if (relay->event_fd >= 0)
		close(relay->event_fd);
	pool_close(&relay->flows);
	pool_close(&relay->descriptors);
	ports_close(&relay->ports);
	pthread_mutex_destroy(&relay->lock);
	records_free(relay->records);
	free(relay->events);
	free(relay);
}
