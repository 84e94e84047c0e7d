/* SPDX-License-Identifier: Apache-2.0
 *
 * A thread's turns: waits for epoll's events, handles them, then the flows that are ready or due. thread.h names the
 * owners and callers.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "accept.h"
#include "events.h"
#include "range.h"
#include "route.h"
#include "state.h"

#define PAUSE 0.1 /* seconds without listening, after descriptors or memory ran out */
#define RANGE_AGE 1 /* seconds until the range of local ports is read again */
#define BATCH 256 /* epoll events in one turn */
/* Small cookies, below any address that malloc(3) returns: the eventfd `wake`, and the listener of each capture. */
#define COOKIE_WAKE 8
#define COOKIE_LISTENER(capture) (16 + 8 * (uint64_t)(capture))
#define COOKIE_FLOW COOKIE_LISTENER(CAPTURES_MAX)

/* ---- news ---- */

void tell_threads(struct relay *relay, struct container *container, enum news news)
{
	for (uint32_t i = 0; i < relay->thread_count; i++) {
		struct thread *thread = &relay->threads[i];
		struct share *share = &container->shares[i];
		pthread_mutex_lock(&thread->lock);
		if (!share->news) {
			atomic_fetch_add(&container->references, 1);
			share->next_news = thread->news;
			thread->news = share;
		}
		share->news |= news;
		pthread_mutex_unlock(&thread->lock);
		signal_fd(thread->wake);
	}
}

static struct share *take_news(struct thread *thread, uint32_t *news)
{
	pthread_mutex_lock(&thread->lock);
	struct share *share = thread->news;
	if (share) {
		thread->news = share->next_news;
		*news = share->news;
		share->news = 0;
	}
	pthread_mutex_unlock(&thread->lock);
	return share;
}

static void hear_news(struct thread *thread)
{
	uint32_t news;
	for (struct share *share; (share = take_news(thread, &news));) {
		flows_hear(&thread->flows, share, news);
		container_release(share->container);
	}
}

/* ---- listening ---- */

static int watch(struct thread *thread, int fd, uint64_t cookie, uint32_t flags)
{
	struct epoll_event event = {.events = EPOLLIN | flags, .data.u64 = cookie};
	return epoll_ctl(thread->epoll, EPOLL_CTL_ADD, fd, &event);
}

int thread_listen(struct thread *thread, uint32_t capture)
{
	return watch(thread, thread->relay->listeners[capture], COOKIE_LISTENER(capture), EPOLLEXCLUSIVE);
}

static void listen_again(struct thread *thread)
{
	thread->is_listening = 1;
	for (uint32_t capture = 0; capture < CAPTURES_MAX; capture++)
		if (thread->relay->listeners[capture] >= 0 && thread_listen(thread, capture) < 0 && errno != EEXIST)
			thread->is_listening = 0;
}

static void stop_listening(struct thread *thread)
{
	for (uint32_t capture = 0; capture < CAPTURES_MAX; capture++)
		if (thread->relay->listeners[capture] >= 0)
			epoll_ctl(thread->epoll, EPOLL_CTL_DEL, thread->relay->listeners[capture], NULL);
	thread->is_listening = 0;
}

/* ---- turns ---- */

static void serve_event(struct thread *thread, const struct epoll_event *event)
{
	uint64_t cookie = event->data.u64, drained;
	if (cookie >= COOKIE_FLOW && cookie & COOKIE_PUMP)
		pump_event(&thread->pumps, cookie, (event->events & EPOLLERR) != 0);
	else if (cookie >= COOKIE_FLOW)
		flow_event(&thread->flows, cookie, event->events);
	else if (cookie != COOKIE_WAKE && !accept_flows(thread, (uint32_t)(cookie - COOKIE_LISTENER(0)) / 8))
		stop_listening(thread);
	else if (cookie == COOKIE_WAKE && read(thread->wake, &drained, sizeof drained) > 0) {
		pumps_take(&thread->pumps);
		hear_news(thread);
		flows_serve_nudged(&thread->flows);
	}
}

/* Returns how long epoll may wait, in milliseconds; -1 for no limit. */
static int patience(const struct thread *thread)
{
	double next = flows_next(&thread->flows), wait = next - now();
	if (thread->flows.ready || thread->pumps.ready)
		return 0;
	if (!thread->is_listening)
		return (int)(PAUSE * 1000);
	if (next == 0)
		return -1;
	return wait <= 0 ? 0 : wait > 3600 ? 3600000 : (int)(wait * 1000) + 1;
}

/* Follows the host's range of local ports, which may change. Called by the first thread. */
static void look_at_range(struct relay *relay, double now)
{
	if (now - relay->looked_at_range < RANGE_AGE)
		return;
	relay->looked_at_range = now;
	range_read(&relay->ports, relay->options.ports);
}

static void turn(struct thread *thread)
{
	struct epoll_event events[BATCH];
	int was_listening = thread->is_listening;
	int count = epoll_wait(thread->epoll, events, BATCH, patience(thread));
	thread->flows.now = now();
	if (thread == thread->relay->threads)
		look_at_range(thread->relay, thread->flows.now);
	for (int i = 0; i < count; i++)
		serve_event(thread, &events[i]);
	flows_serve_ready(&thread->flows);
	pumps_serve_ready(&thread->pumps);
	flows_serve_due(&thread->flows);
	if (!was_listening)
		listen_again(thread);
	flows_bury(&thread->flows);
	pumps_bury(&thread->pumps);
}

static void *thread_main(void *argument)
{
	struct thread *thread = argument;
	while (!atomic_load(&thread->relay->is_closing))
		turn(thread);
	flows_close(&thread->flows);
	pumps_take(&thread->pumps);
	pumps_serve_ready(&thread->pumps);
	pumps_bury(&thread->pumps);
	return NULL;
}

/* ---- life ---- */

int thread_prepare(struct thread *thread, struct relay *relay, uint32_t number)
{
	thread->relay = relay;
	thread->spare = -1; /* not 0: thread_dispose() would close descriptor 0 if a step below fails */
	thread->epoll = epoll_create1(EPOLL_CLOEXEC);
	thread->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	thread->netlink = route_open();
	pthread_mutex_init(&thread->lock, NULL);
	pthread_mutex_init(&thread->pumps.lock, NULL);
	if (workspace_open(&thread->workspace) < 0 || thread->epoll < 0 || thread->wake < 0 || thread->netlink < 0)
		return -1;
	thread->flows = (struct flows){.relay = relay, .options = &relay->options, .totals = &relay->counters,
	                               .workspace = &thread->workspace, .numbers = &relay->numbers, .thread = number,
	                               .epoll = thread->epoll, .netlink = thread->netlink, .ports = &relay->ports,
	                               .nudges.wake = thread->wake, .now = now()};
	thread->pumps.workspace = &thread->workspace;
	thread->pumps.epoll = thread->epoll;
	thread->pumps.wake = thread->wake;
	thread->spare = fcntl(thread->epoll, F_DUPFD_CLOEXEC, 0);
	thread->is_listening = 1;
	return watch(thread, thread->wake, COOKIE_WAKE, 0);
}

void thread_dispose(struct thread *thread)
{
	uint32_t news;
	for (struct share *share; (share = take_news(thread, &news));)
		container_release(share->container);
	workspace_close(&thread->workspace);
	int fds[] = {thread->epoll, thread->wake, thread->netlink, thread->spare};
	for (int i = 0; i < 4; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	pthread_mutex_destroy(&thread->lock);
	pthread_mutex_destroy(&thread->pumps.lock);
}

/* The interpreter handles signals, so the thread starts with all signals blocked. */
int thread_start(struct thread *thread)
{
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int error = pthread_create(&thread->id, NULL, thread_main, thread);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return error;
}

void wake_threads(struct relay *relay)
{
	for (uint32_t i = 0; i < relay->thread_count; i++)
		signal_fd(relay->threads[i].wake);
}

struct relay_pump *relay_pump_start(struct relay *relay, uint32_t id, int from, int to, uint64_t limit)
{
	struct container *container = container_find(relay, id);
	if (!container) {
		errno = ENOENT;
		return NULL;
	}
	struct thread *thread = &relay->threads[atomic_fetch_add(&relay->numbers, 1) % relay->thread_count];
	struct relay_pump *pump = pump_start(&thread->pumps, container, from, to, limit);
	if (!pump) {
		int error = errno;
		container_release(container);
		errno = error;
	}
	return pump;
}
