/* SPDX-License-Identifier: Apache-2.0
 *
 * The containers' resolver: its thread, the datagrams that it takes, and the calls of resolver.h.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "policy.h"
#include "resolving.h"

#define EVENTS 64                /* of epoll, in one turn */
#define READS 64                 /* batches to receive before one is answered */
#define FEW 8                    /* datagrams in the first batch: to prepare for more costs more than it saves */
#define TURNS DATAGRAMS_MAX      /* queries to answer before the sockets are read again */

static double monotonic(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* ---- datagrams ---- */

static int ends_with(const char *host, const char *end)
{
	size_t length = strlen(host), size = strlen(end);
	return length >= size && strcmp(host + length - size, end) == 0;
}

/* Whether upstream may be asked: Python knows the names that rules serve, the container's own, and their addresses. */
static int is_passed(const struct resolver *resolver, const struct asker *asker, const struct question *asked)
{
	const char *host = asked->host;
	if (asked->code || strcmp(host, "localhost") == 0 || ends_with(host, ".localhost") || ends_with(host, ".arpa"))
		return 0;
	if (host[0] && strcmp(host, asker->own) == 0)
		return 0;
	return resolver->options.decide(resolver->options.relay, asker->container, host) == VERDICT_SPLICE;
}

/* Takes a query off its queue. */
static void take(struct resolver *resolver, struct asker *asker, const struct queued *queued, double now)
{
	struct query query = {.asker = asker, .way = queued->way, .came = now, .question = queued->bytes + MESSAGE_HEADER};
	if (!question_read(queued->bytes, queued->length, &query.asked))
		return;
	asker->counts.queries++;
	if (is_passed(resolver, asker, &query.asked)) {
		query_pass(resolver, &query, now);
		return;
	}
	struct resolver_event *event = event_add(resolver, RESOLVER_QUESTION, queued->bytes, queued->length);
	if (!event)
		return;
	asker->with_python++;
	event->container = asker->container;
	event->came = now;
	event->way = queued->way;
}

/* Truncates the answer to a query that exceeds its container's queue. */
static void overflow(struct resolver *resolver, struct asker *asker, const struct datagram *datagram, double now)
{
	struct query query = {.asker = asker, .way = datagram->way, .came = now, .question = datagram->bytes + MESSAGE_HEADER};
	if (!question_read(datagram->bytes, datagram->length, &query.asked))
		return;
	asker->counts.queries++;
	answer_over_budget(resolver, &query);
}

/* Puts the datagrams that wait into the queues of their containers. */
static void receive(struct resolver *resolver, double now)
{
	uint32_t lost = resolver->lost;
	for (int reads = 0, room = FEW, count = room; reads < READS && count == room; reads++) {
		room = reads ? DATAGRAMS_MAX : FEW;
		count = datagrams_receive(resolver->socket, resolver->received, (uint32_t)room, &resolver->lost);
		for (int i = 0; i < count; i++) {
			struct asker *asker = asker_on(&resolver->askers, resolver->received[i].way.interface);
			if (asker && !asker_queue(&resolver->askers, asker, &resolver->received[i]))
				overflow(resolver, asker, &resolver->received[i], now);
		}
	}
	if (lost != resolver->lost)
		event_add(resolver, RESOLVER_LOST, NULL, 0);
}

/* ---- a turn ---- */

static double deadline_of(const struct resolver *resolver)
{
	if (resolver->askers.first_turn)
		return 0;
	return fmin(upstream_deadline(resolver->upstream), waiting_deadline(resolver));
}

static void turn(struct resolver *resolver, const struct epoll_event *events, int count, double now)
{
	for (int i = 0; i < count; i++) {
		eventfd_t value;
		if (events[i].data.ptr == &resolver->wake)
			eventfd_read(resolver->wake, &value);
		else if (events[i].data.ptr == &resolver->socket)
			receive(resolver, now);
		else
			upstream_read(resolver->upstream, events[i].data.ptr, now);
	}
	for (uint32_t i = 0; i < TURNS; i++) {
		struct asker *asker;
		struct queued *queued = askers_take(&resolver->askers, &asker);
		if (!queued)
			break;
		take(resolver, asker, queued, now);
		free(queued);
	}
	waiting_expire(resolver, now);
	upstream_expire(resolver->upstream, now);
	answers_flush(resolver);
}

void resolver_step(struct resolver *resolver, double now)
{
	struct epoll_event events[EVENTS];
	pthread_mutex_lock(&resolver->lock);
	int count = epoll_wait(resolver->epoll, events, EVENTS, 0);
	turn(resolver, events, count, now);
	pthread_mutex_unlock(&resolver->lock);
}

static void *work(void *argument)
{
	struct resolver *resolver = argument;
	struct epoll_event events[EVENTS];
	pthread_mutex_lock(&resolver->lock);
	while (!resolver->is_closing) {
		double seconds = (resolver->waits_until = deadline_of(resolver)) - monotonic();
		int milliseconds = seconds > 60 ? 60000 : seconds > 0 ? (int)ceil(seconds * 1000) : 0;
		pthread_mutex_unlock(&resolver->lock);
		int count = epoll_wait(resolver->epoll, events, EVENTS, milliseconds);
		pthread_mutex_lock(&resolver->lock);
		turn(resolver, events, count, monotonic());
	}
	pthread_mutex_unlock(&resolver->lock);
	return NULL;
}

/* Locks and unlocks around a call from Python. */
static void enter(struct resolver *resolver)
{
	pthread_mutex_lock(&resolver->lock);
}

static void leave(struct resolver *resolver)
{
	double deadline = deadline_of(resolver);
	if (deadline < resolver->waits_until) {
		resolver->waits_until = deadline;
		eventfd_write(resolver->wake, 1);
	}
	pthread_mutex_unlock(&resolver->lock);
}

int resolver_start(struct resolver *resolver)
{
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int result = pthread_create(&resolver->thread, NULL, work, resolver);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	resolver->has_thread = result == 0;
	return -result;
}

int resolver_epoll(struct resolver *resolver)
{
	return resolver->epoll;
}

double resolver_deadline(struct resolver *resolver)
{
	pthread_mutex_lock(&resolver->lock);
	double deadline = resolver->waits_until = deadline_of(resolver);
	pthread_mutex_unlock(&resolver->lock);
	return deadline;
}

/* ---- opening and closing ---- */

/* Asks Python to ask a server over TCP. */
static int ask_over_tcp(void *owner, struct flight *flight, const struct nameserver *server, const uint8_t *query,
                        uint32_t length)
{
	struct resolver *resolver = owner;
	struct resolver_event *event = event_add(resolver, RESOLVER_TCP, query, length);
	if (!event)
		return 0;
	event->flight = flight;
	event->server = *server;
	return 1;
}

static int watch(const struct resolver *resolver, int fd, void *data)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = data};
	return epoll_ctl(resolver->epoll, EPOLL_CTL_ADD, fd, &event);
}

struct resolver *resolver_open(const struct resolver_options *options)
{
	struct resolver *resolver = calloc(1, sizeof *resolver);
	uint64_t seed;
	if (!resolver || getrandom(&seed, sizeof seed, 0) != sizeof seed) {
		free(resolver);
		return NULL;
	}
	resolver->options = *options;
	resolver->waits_until = INFINITY;
	resolver->socket = -1;
	resolver->last_second = &resolver->second;
	resolver->last_event = &resolver->first_event;
	askers_init(&resolver->askers);
	pthread_mutex_init(&resolver->lock, NULL);
	resolver->epoll = epoll_create1(EPOLL_CLOEXEC);
	resolver->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	resolver->ready = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	resolver->cache = cache_new(options->cache_size, seed);
	uint32_t port_queries = options->port_queries ? options->port_queries : PORT_QUERIES;
	if (resolver->cache)
		resolver->upstream = upstream_new(resolver->epoll, resolver->cache, port_queries, ask_over_tcp, resolver);
	if (!resolver->upstream || resolver->ready < 0 || watch(resolver, resolver->wake, &resolver->wake) < 0) {
		int error = errno;
		resolver_close(resolver);
		errno = error;
		return NULL;
	}
	return resolver;
}

void resolver_close(struct resolver *resolver)
{
	if (resolver->has_thread) {
		pthread_mutex_lock(&resolver->lock);
		resolver->is_closing = 1;
		eventfd_write(resolver->wake, 1);
		pthread_mutex_unlock(&resolver->lock);
		pthread_join(resolver->thread, NULL);
	}
	upstream_free(resolver->upstream);
	waiting_free_all(resolver);
	for (uint32_t i = 0; i < ASKER_BUCKETS; i++)
		while (resolver->askers.buckets[i])
			asker_remove(&resolver->askers, resolver->askers.buckets[i]);
	cache_free(resolver->cache);
	for (struct resolver_event *event; (event = event_take(resolver));)
		free(event);
	close(resolver->epoll);
	close(resolver->wake);
	close(resolver->ready);
	pthread_mutex_destroy(&resolver->lock);
	free(resolver);
}

int resolver_listen(struct resolver *resolver, int fd)
{
	int on = 1;
	if (setsockopt(fd, SOL_SOCKET, SO_RXQ_OVFL, &on, sizeof on) < 0)
		return -errno;
	enter(resolver);
	resolver->socket = fd;
	int result = watch(resolver, fd, &resolver->socket) < 0 ? -errno : 0;
	leave(resolver);
	return result;
}

int resolver_set_servers(struct resolver *resolver, const struct nameserver *servers, uint32_t count)
{
	enter(resolver);
	int result = upstream_set_servers(resolver->upstream, servers, count);
	leave(resolver);
	return result;
}

void resolver_set_v6(struct resolver *resolver, int has_v6)
{
	enter(resolver);
	resolver->has_v6 = has_v6;
	leave(resolver);
}

void resolver_observe(struct resolver *resolver, int is_observed)
{
	enter(resolver);
	resolver->is_observed = is_observed;
	leave(resolver);
}

/* ---- calls of Python: containers ---- */

struct asker *resolver_add(struct resolver *resolver, uint32_t container, uint32_t interface,
                           const struct resolver_budget *budget, const char *own)
{
	enter(resolver);
	struct asker *asker = asker_add(&resolver->askers, container, interface, budget, own);
	leave(resolver);
	return asker;
}

void resolver_remove(struct resolver *resolver, struct asker *asker)
{
	enter(resolver);
	patient_free(asker);
	asker_remove(&resolver->askers, asker);
	leave(resolver);
}

void resolver_count(struct resolver *resolver, const struct asker *asker, struct resolver_counts *out)
{
	enter(resolver);
	*out = asker->counts;
	out->waiting = asker->places;
	leave(resolver);
}

uint64_t resolver_lost(struct resolver *resolver)
{
	enter(resolver);
	uint64_t lost = resolver->lost;
	leave(resolver);
	return lost;
}

/* ---- calls of Python: queries ---- */

void resolver_question(struct resolver *resolver, uint64_t token, const uint8_t *question, uint32_t length, double now)
{
	enter(resolver);
	wish_begin(resolver, token, question, length, now);
	leave(resolver);
}

void resolver_query(struct resolver *resolver, struct asker *asker, uint64_t token, const uint8_t *wire, uint32_t length,
                    double now)
{
	struct query query = {.asker = asker, .token = token, .came = now, .question = wire + MESSAGE_HEADER};
	if (!question_read(wire, length, &query.asked))
		return;
	enter(resolver);
	query_pass(resolver, &query, now);
	answers_flush(resolver);
	leave(resolver);
}

int resolver_enter(struct resolver *resolver, struct asker *asker, uint64_t token)
{
	struct query query = {.asker = asker, .token = token};
	enter(resolver);
	int has_place = place_take(resolver, &query);
	leave(resolver);
	return has_place;
}

void resolver_leave(struct resolver *resolver, struct asker *asker, double now)
{
	enter(resolver);
	place_leave(resolver, asker, now);
	answers_flush(resolver);
	leave(resolver);
}

int resolver_withdraw(struct resolver *resolver, struct asker *asker, uint64_t token)
{
	enter(resolver);
	int was_patient = query_withdraw(resolver, asker, token);
	leave(resolver);
	return was_patient;
}

void resolver_reply(struct resolver *resolver, struct asker *asker, const struct datagram_way *way, const uint8_t *answer,
                    uint32_t length)
{
	enter(resolver);
	asker_replied(&resolver->askers, asker);
	if (length && length <= DATAGRAM_MAX) {
		struct datagram *datagram = answer_datagram(resolver, way);
		datagram->length = length;
		memcpy(datagram->bytes, answer, length);
	}
	leave(resolver);
}

void resolver_flush(struct resolver *resolver)
{
	enter(resolver);
	answers_flush(resolver);
	leave(resolver);
}

void resolver_pass(struct resolver *resolver, struct asker *asker, const struct datagram_way *way, const uint8_t *wire,
                   uint32_t length, double now)
{
	struct query query = {.asker = asker, .way = *way, .came = now, .question = wire + MESSAGE_HEADER};
	enter(resolver);
	asker_replied(&resolver->askers, asker);
	if (question_read(wire, length, &query.asked))
		query_pass(resolver, &query, now);
	leave(resolver);
}

void resolver_told(struct resolver *resolver, struct flight *flight, const uint8_t *message, uint32_t length, double now)
{
	enter(resolver);
	upstream_told(resolver->upstream, flight, message, length, now);
	answers_flush(resolver);
	leave(resolver);
}

/* ---- calls of Python: events ---- */

int resolver_event_fd(struct resolver *resolver)
{
	return resolver->ready;
}

struct resolver_event *resolver_take(struct resolver *resolver)
{
	enter(resolver);
	struct resolver_event *event = event_take(resolver);
	leave(resolver);
	return event;
}

void resolver_event_free(struct resolver_event *event)
{
	free(event);
}

uint64_t resolver_dropped(struct resolver *resolver)
{
	enter(resolver);
	uint64_t dropped = resolver->dropped;
	resolver->dropped = 0;
	leave(resolver);
	return dropped;
}
