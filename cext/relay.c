/* SPDX-License-Identifier: Apache-2.0
 *
 * The relay's threads, containers and events: everything relay.h promises. Flows live in flow.c.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "flow.h"

#define TICK 0.1          /* seconds between two looks at every flow's deadlines */
#define BATCH 256         /* epoll events a turn */
#define KEPT_PIPES 64     /* room for a thread's idle pipes */
#define COOKIE_LISTENER 8 /* no flow's address */
#define COOKIE_WAKE 16

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

void signal_fd(int fd)
{
	uint64_t one = 1;
	while (write(fd, &one, sizeof one) < 0 && errno == EINTR)
		;
}

/* ---- tables ---- */

static struct table *table_new(const void *blob, uint32_t size)
{
	struct table *table = aligned_alloc(16, (sizeof *table + size + 15) & ~(size_t)15);
	if (table) {
		atomic_init(&table->references, 1);
		table->size = size;
		memcpy(table->blob, blob, size);
	}
	return table;
}

void table_release(struct table *table)
{
	if (table && atomic_fetch_sub(&table->references, 1) == 1)
		free(table);
}

struct table *table_of(struct container *container)
{
	pthread_mutex_lock(&container->lock);
	struct table *table = container->table;
	if (table)
		atomic_fetch_add(&table->references, 1);
	pthread_mutex_unlock(&container->lock);
	return table;
}

/* ---- containers ---- */

void container_release(struct container *container)
{
	if (atomic_fetch_sub(&container->references, 1) != 1)
		return;
	table_release(container->table);
	names_free(container->names);
	pthread_mutex_destroy(&container->lock);
	free(container);
}

struct container *container_find(struct relay *relay, uint32_t id)
{
	pthread_mutex_lock(&relay->lock);
	struct container *container = relay->containers;
	while (container && container->id != id)
		container = container->next;
	if (container)
		atomic_fetch_add(&container->references, 1);
	pthread_mutex_unlock(&relay->lock);
	return container;
}

int relay_add_container(struct relay *relay, uint32_t id, const struct relay_budget *budget, const uint8_t v4[16],
                        const uint8_t v6[16])
{
	struct container *known = container_find(relay, id), *container;
	if (known) {
		container_release(known);
		return -EEXIST;
	}
	container = calloc(1, sizeof *container);
	if (!container || !(container->names = names_new())) {
		free(container);
		return -ENOMEM;
	}
	pthread_mutex_init(&container->lock, NULL);
	atomic_init(&container->references, 1);
	container->id = id;
	container->budget = *budget;
	memcpy(container->v4, v4, 16);
	memcpy(container->v6, v6, 16);
	pthread_mutex_lock(&relay->lock);
	container->next = relay->containers;
	relay->containers = container;
	pthread_mutex_unlock(&relay->lock);
	return 0;
}

static void wake_threads(struct relay *relay)
{
	for (uint32_t i = 0; i < relay->thread_count; i++)
		signal_fd(relay->threads[i].wake);
}

int relay_publish_policy(struct relay *relay, uint32_t id, const void *blob, uint32_t size)
{
	if (!policy_check(blob, size))
		return -EINVAL;
	struct container *container = container_find(relay, id);
	if (!container)
		return -ENOENT;
	struct table *table = table_new(blob, size), *old = NULL;
	if (table) {
		pthread_mutex_lock(&container->lock);
		old = container->table;
		container->table = table;
		pthread_mutex_unlock(&container->lock);
	}
	table_release(old);
	container_release(container);
	return table ? 0 : -ENOMEM;
}

int relay_remove_container(struct relay *relay, uint32_t id)
{
	struct container **link, *container;
	pthread_mutex_lock(&relay->lock);
	for (link = &relay->containers; *link && (*link)->id != id; link = &(*link)->next)
		;
	container = *link;
	if (container)
		*link = container->next;
	pthread_mutex_unlock(&relay->lock);
	if (!container)
		return -ENOENT;
	atomic_store(&container->is_gone, 1);
	container_release(container);
	for (uint32_t i = 0; i < relay->thread_count; i++)
		atomic_store(&relay->threads[i].has_lost_container, 1);
	wake_threads(relay);
	return 0;
}

void container_release_name(struct container *container, const uint8_t synthetic[16])
{
	pthread_mutex_lock(&container->lock);
	struct name *name = names_by_address(container->names, synthetic);
	if (name && name->flows)
		name->flows--;
	pthread_mutex_unlock(&container->lock);
}

void relay_returned(struct relay *relay, uint32_t id, const uint8_t *synthetic, uint64_t sent, uint64_t received)
{
	struct container *container = container_find(relay, id);
	atomic_fetch_add(&relay->counters.sent, sent);
	atomic_fetch_add(&relay->counters.received, received);
	if (!container)
		return;
	atomic_fetch_sub(&container->handoffs, 1);
	atomic_fetch_add(&container->counters.sent, sent);
	atomic_fetch_add(&container->counters.received, received);
	if (synthetic)
		container_release_name(container, synthetic);
	container_release(container);
}

int relay_publish_name(struct relay *relay, uint32_t id, const char *name, const uint8_t *synthetic, const uint8_t *addresses,
                       uint32_t count, double seconds)
{
	struct container *container = container_find(relay, id);
	if (!container)
		return -ENOENT;
	pthread_mutex_lock(&container->lock);
	struct name *known = names_by_text(container->names, name);
	int is_awaited = known && known->is_asked;
	int result = names_publish(container->names, name, synthetic, addresses, count, now() + seconds);
	pthread_mutex_unlock(&container->lock);
	container_release(container);
	if (is_awaited)
		wake_threads(relay);
	return result;
}

void relay_name_failed(struct relay *relay, uint32_t id, const char *text)
{
	struct container *container = container_find(relay, id);
	if (!container)
		return;
	pthread_mutex_lock(&container->lock);
	struct name *name = names_by_text(container->names, text);
	if (name) {
		name->is_asked = 0;
		name->has_failed = 1;
	}
	pthread_mutex_unlock(&container->lock);
	container_release(container);
	wake_threads(relay);
}

int relay_may_dial(struct relay *relay, uint32_t id, const struct endpoint *to, int local)
{
	if (local)
		return 1;
	struct container *container = id ? container_find(relay, id) : NULL;
	struct table *table = container ? table_of(container) : NULL;
	int netlink = dial_route_open();
	int permitted = netlink < 0 ? 0 : dial_permitted(netlink, table ? table->blob : NULL, to);
	if (netlink >= 0)
		close(netlink);
	table_release(table);
	if (container)
		container_release(container);
	return permitted != 0; /* where no route leads the dial itself says so */
}

static void copy_counters(struct counters *from, struct relay_counters *out)
{
	*out = (struct relay_counters){from->accepted, from->spliced,  from->handled, from->refused,  from->reset, from->failed_dials,
	                               from->over_budget, from->sent, from->received, from->flows};
}

void relay_count(struct relay *relay, uint32_t id, struct relay_counters *out)
{
	memset(out, 0, sizeof *out);
	struct container *container = id ? container_find(relay, id) : NULL;
	if (id == 0)
		copy_counters(&relay->counters, out);
	if (container) {
		copy_counters(&container->counters, out);
		container_release(container);
	}
}

/* ---- events ---- */

static int grow(struct relay *relay)
{
	uint32_t room = relay->event_room ? relay->event_room * 2 : 64;
	struct relay_event *events = malloc(room * sizeof *events);
	if (!events)
		return 0;
	for (uint32_t i = 0; i < relay->event_count; i++)
		events[i] = relay->events[(relay->first_event + i) % relay->event_room];
	free(relay->events);
	relay->events = events;
	relay->event_room = room;
	relay->first_event = 0;
	return 1;
}

int relay_post(struct relay *relay, const struct relay_event *event)
{
	pthread_mutex_lock(&relay->lock);
	int has_room = relay->event_count < relay->event_room || grow(relay);
	if (has_room)
		relay->events[(relay->first_event + relay->event_count++) % relay->event_room] = *event;
	pthread_mutex_unlock(&relay->lock);
	if (has_room)
		signal_fd(relay->event_fd);
	return has_room ? 0 : -1;
}

uint32_t relay_take(struct relay *relay, struct relay_event *out, uint32_t count)
{
	uint32_t taken = 0;
	pthread_mutex_lock(&relay->lock);
	for (; taken < count && relay->event_count; taken++) {
		out[taken] = relay->events[relay->first_event];
		relay->first_event = (relay->first_event + 1) % relay->event_room;
		relay->event_count--;
	}
	pthread_mutex_unlock(&relay->lock);
	return taken;
}

int relay_event_fd(struct relay *relay)
{
	return relay->event_fd;
}

/* ---- threads ---- */

static void bury(struct thread *thread)
{
	while (thread->dead) {
		struct flow *flow = thread->dead;
		thread->dead = flow->next;
		container_release(flow->container);
		free(flow->host);
		free(flow->name);
		free(flow);
	}
}

static void tick(struct thread *thread)
{
	for (struct flow *flow = thread->flows, *next; flow; flow = next) {
		next = flow->next;
		flow_tick(thread, flow);
	}
}

/* Somebody has a pump, a name that flows may wait for, or the end of a container. */
static void woken(struct thread *thread, double *next_tick)
{
	pumps_begin(thread);
	if (thread->resolving || atomic_exchange(&thread->has_lost_container, 0))
		*next_tick = thread->now;
}

static void serve_ready(struct thread *thread)
{
	struct flow *flow = thread->ready;
	thread->ready = NULL;
	while (flow) {
		struct flow *next = flow->next_ready;
		flow->is_ready = 0;
		if (flow->stage != STAGE_DEAD)
			flow_service(thread, flow, 0);
		flow = next;
	}
}

/* One socket's event. */
static void serve_event(struct thread *thread, const struct epoll_event *event)
{
	uintptr_t address = (uintptr_t)(event->data.u64 & ~(uint64_t)(COOKIE_UPSTREAM | COOKIE_PUMP));
	if (event->data.u64 & COOKIE_PUMP) {
		pump_service(thread, (struct relay_pump *)address);
		return;
	}
	struct flow *flow = (struct flow *)address;
	int is_upstream = event->data.u64 & COOKIE_UPSTREAM, is_broken = (event->events & EPOLLERR) != 0;
	if (flow->stage != STAGE_DEAD)
		flow_service(thread, flow, is_broken && (!is_upstream || flow->stage == STAGE_MOVING));
}

static void turn(struct thread *thread, double *next_tick)
{
	struct epoll_event events[BATCH];
	uint64_t drained;
	int timeout = thread->ready || thread->ready_pumps ? 0 : thread->flows ? (int)(TICK * 1000) : -1;
	int count = epoll_wait(thread->epoll, events, BATCH, timeout);
	thread->now = now();
	for (int i = 0; i < count; i++) {
		if (events[i].data.u64 == COOKIE_LISTENER)
			flow_accept(thread);
		else if (events[i].data.u64 != COOKIE_WAKE)
			serve_event(thread, &events[i]);
		else if (read(thread->wake, &drained, sizeof drained) > 0)
			woken(thread, next_tick);
	}
	serve_ready(thread);
	pumps_serve_ready(thread);
	if (thread->now >= *next_tick) {
		tick(thread);
		*next_tick = thread->now + TICK;
	}
	/* A dead flow may still stand in the list of ready ones: it goes with the next turn. */
	if (!thread->ready)
		bury(thread);
	pumps_bury(thread);
}

static void *thread_main(void *argument)
{
	struct thread *thread = argument;
	double next_tick = 0;
	while (!atomic_load(&thread->relay->is_closing))
		turn(thread, &next_tick);
	while (thread->flows)
		flow_end(thread, thread->flows, END_DETACHED);
	bury(thread);
	pumps_bury(thread);
	return NULL;
}

static int watch(struct thread *thread, int fd, uint64_t cookie, uint32_t flags)
{
	struct epoll_event event = {.events = EPOLLIN | flags, .data.u64 = cookie};
	return epoll_ctl(thread->epoll, EPOLL_CTL_ADD, fd, &event);
}

static int thread_prepare(struct thread *thread, struct relay *relay)
{
	thread->relay = relay;
	thread->now = now();
	thread->epoll = epoll_create1(EPOLL_CLOEXEC);
	thread->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	thread->netlink = dial_route_open();
	thread->buffer = malloc(BUFFER_SIZE);
	thread->pipes = calloc(KEPT_PIPES, sizeof *thread->pipes);
	if (thread->epoll < 0 || thread->wake < 0 || thread->netlink < 0 || !thread->buffer || !thread->pipes)
		return -1;
	thread->spare = fcntl(thread->epoll, F_DUPFD_CLOEXEC, 0);
	if (watch(thread, relay->listener, COOKIE_LISTENER, EPOLLEXCLUSIVE) < 0)
		return -1;
	return watch(thread, thread->wake, COOKIE_WAKE, 0);
}

static void thread_dispose(struct thread *thread)
{
	for (uint32_t i = 0; i < thread->idle_pipes; i++) {
		close(thread->pipes[i][0]);
		close(thread->pipes[i][1]);
	}
	int fds[] = {thread->epoll, thread->wake, thread->netlink, thread->spare};
	for (int i = 0; i < 4; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	free(thread->buffer);
	free(thread->pipes);
}

/* Signals are the interpreter's: the threads are born with all of them blocked. */
static int thread_start(struct thread *thread)
{
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int error = pthread_create(&thread->id, NULL, thread_main, thread);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return error;
}

static void set_defaults(struct relay_options *options)
{
	struct rlimit files;
	long cores = sysconf(_SC_NPROCESSORS_ONLN);
	if (options->threads == 0)
		options->threads = cores > 1 ? 2 : 1;
	if (options->threads > THREADS_MAX)
		options->threads = THREADS_MAX;
	/* A flow has two sockets; a quarter of the descriptors is Python's. */
	if (options->flows == 0 && getrlimit(RLIMIT_NOFILE, &files) == 0)
		options->flows = (uint32_t)((files.rlim_cur < 1000000 ? files.rlim_cur : 1000000) * 3 / 8);
}

struct relay *relay_open(int listener, const struct relay_options *options)
{
	struct relay *relay = calloc(1, sizeof *relay);
	if (!relay)
		return NULL;
	relay->options = *options;
	set_defaults(&relay->options);
	relay->listener = listener;
	pthread_mutex_init(&relay->lock, NULL);
	relay->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int error = relay->event_fd < 0 ? errno : 0;
	while (!error && relay->thread_count < relay->options.threads) {
		struct thread *thread = &relay->threads[relay->thread_count];
		error = thread_prepare(thread, relay) < 0 ? errno : thread_start(thread);
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
	while (relay->containers) {
		struct container *container = relay->containers;
		relay->containers = container->next;
		container_release(container);
	}
	if (relay->event_fd >= 0)
		close(relay->event_fd);
	pthread_mutex_destroy(&relay->lock);
	free(relay->events);
	free(relay);
}
