/* SPDX-License-Identifier: Apache-2.0
 *
 * The containers' resolver: which queries pass, their answers, and the events for Python. resolver.h names the callers.
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

#include "addresses.h"
#include "askers.h"
#include "names.h"
#include "policy.h"
#include "resolver.h"
#include "upstream.h"

#define EVENTS 64                /* of epoll, in one turn */
#define READS 64                 /* batches to receive before one is answered */
#define FEW 8                    /* datagrams in the first batch: to prepare for more costs more than it saves */
#define TURNS DATAGRAMS_MAX      /* queries to answer before the sockets are read again */
#define ADDRESSES_MAX (2 * ANSWER_ADDRESSES_MAX)

enum { TYPE_A = 1, TYPE_AAAA = 28, CODE_SERVFAIL = 2 };

/* A container's query, and where its answer goes. */
struct query {
	struct asker *asker;
	uint64_t token;              /* of Python; 0: the answer is a datagram */
	struct datagram_way way;
	double came;                 /* seconds */
	struct question asked;
	const uint8_t *question;     /* `asked.length` bytes */
};

/* A query that waits for a place, or for upstream. Without a question, it stands for a place that Python waits for. */
struct waiting {
	struct waiting *next;        /* list of those that wait for a place, or for the second family */
	struct waiting **link;       /* NULL: in no list of those that wait for the second family */
	struct waiting *before, *after; /* list of those that wait for upstream */
	struct resolver *resolver;
	struct query query;
	struct waiter own, other;    /* for the family that was asked for, and for the other one */
	struct known *answers[2];
	double until;                /* seconds: the end of the wait for the second family */
	uint8_t own_is_due, other_is_due;
	uint8_t is_done;
	uint8_t is_unwanted;         /* 1: Python has withdrawn it */
	uint8_t question[];
};

/* A question of Python's own. */
struct wish {
	struct waiter waiter;
	struct wish *next, **link;
	struct resolver *resolver;
	uint64_t token;
};

struct resolver {
	struct resolver_options options;
	pthread_mutex_t lock;
	pthread_t thread;
	int has_thread, is_closing;
	int epoll, wake, ready;      /* eventfds: `wake` for the thread, `ready` for Python */
	double waits_until;          /* seconds: the thread's deadline */
	int socket;                  /* borrowed; -1: none */
	int has_v6, is_observed;
	struct cache *cache;
	struct upstream *upstream;
	struct askers askers;
	struct waiting *begun;       /* those that wait for upstream */
	struct wish *wishes;
	struct waiting *second, **last_second; /* those that wait for the second family, the first that ends first */
	struct resolver_event *first_event, **last_event;
	uint32_t records;            /* of the events */
	uint64_t dropped;
	uint32_t lost;
	uint32_t count;              /* of `answers` */
	struct datagram received[DATAGRAMS_MAX], answers[DATAGRAMS_MAX];
	uint8_t scratch[MESSAGE_MAX];
};

static double monotonic(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static void signal_to(int eventfd)
{
	eventfd_write(eventfd, 1);
}

/* ---- events ---- */

/* Returns a queued event with room for `length` bytes, or NULL if memory is short. */
static struct resolver_event *event_new(struct resolver *resolver, uint32_t kind, const uint8_t *bytes, uint32_t length)
{
	struct resolver_event *event = calloc(1, sizeof *event + length);
	if (!event)
		return NULL;
	event->kind = kind;
	event->length = length;
	if (length)
		memcpy(event->bytes, bytes, length);
	if (!resolver->first_event)
		signal_to(resolver->ready);
	*resolver->last_event = event;
	resolver->last_event = &event->next;
	return event;
}

/* Queues an event for a record, with the query as a message. */
static void record(struct resolver *resolver, uint32_t kind, const struct query *query, uint32_t code)
{
	uint8_t wire[MESSAGE_HEADER + 259] = {(uint8_t)(query->asked.id >> 8), (uint8_t)query->asked.id, 1, 0, 0, 1};
	if (!resolver->is_observed)
		return;
	if (resolver->records >= RESOLVER_RECORDS_MAX) {
		resolver->dropped++;
		return;
	}
	memcpy(wire + MESSAGE_HEADER, query->question, query->asked.length);
	struct resolver_event *event = event_new(resolver, kind, wire, MESSAGE_HEADER + query->asked.length);
	if (!event)
		return;
	resolver->records++;
	event->container = query->asker->container;
	event->came = query->came;
	event->code = code;
}

static struct resolver_event *take_event(struct resolver *resolver)
{
	struct resolver_event *event = resolver->first_event;
	if (!event)
		return NULL;
	resolver->first_event = event->next;
	if (!resolver->first_event)
		resolver->last_event = &resolver->first_event;
	resolver->records -= event->kind == RESOLVER_ANSWERED || event->kind == RESOLVER_OVER_BUDGET;
	return event;
}

static int ask_over_tcp(void *owner, struct flight *flight, const struct nameserver *server, const uint8_t *query,
                         uint32_t length)
{
	struct resolver *resolver = owner;
	struct resolver_event *event = event_new(resolver, RESOLVER_TCP, query, length);
	if (!event)
		return 0;
	event->flight = flight;
	event->server = *server;
	return 1;
}

/* ---- answers ---- */

static void flush(struct resolver *resolver)
{
	if (resolver->count)
		datagrams_send(resolver->socket, resolver->answers, resolver->count);
	resolver->count = 0;
}

/* Returns the next datagram to fill. */
static struct datagram *datagram_to(struct resolver *resolver, const struct datagram_way *way)
{
	if (resolver->count == DATAGRAMS_MAX)
		flush(resolver);
	struct datagram *datagram = &resolver->answers[resolver->count++];
	datagram->way = *way;
	return datagram;
}

/* Answers a query with the error, or truncated if the code is 0. */
static void refuse(struct resolver *resolver, const struct query *query, uint32_t code)
{
	struct reply reply = {.code = code, .is_cut = code == 0};
	if (query->token) {
		uint32_t length = reply_write(&query->asked, query->question, &reply, resolver->scratch);
		struct resolver_event *event = event_new(resolver, RESOLVER_REPLY, resolver->scratch, length);
		if (event)
			event->token = query->token;
	} else {
		struct datagram *datagram = datagram_to(resolver, &query->way);
		datagram->length = reply_write(&query->asked, query->question, &reply, datagram->bytes);
	}
	record(resolver, RESOLVER_ANSWERED, query, code);
}

static void refuse_too_many(struct resolver *resolver, const struct query *query)
{
	query->asker->counts.over_budget++;
	record(resolver, RESOLVER_OVER_BUDGET, query, 0);
	refuse(resolver, query, 0);
}

/* Adds an answer's addresses to out[ADDRESSES_MAX]. Returns their new number. */
static uint32_t add_addresses(const struct resolver *resolver, const struct known *answer, uint8_t (*out)[16], uint32_t count)
{
	for (uint32_t i = 0; answer && i < answer->facts.count; i++)
		if (resolver->has_v6 || address_is_v4(answer->facts.addresses[i]))
			memcpy(out[count++], answer->facts.addresses[i], 16);
	return count;
}

/* Publishes the addresses of both families, that of the question first. */
static void publish(struct resolver *resolver, const struct query *query, const struct known *own, const struct known *other,
                    double now)
{
	uint8_t addresses[ADDRESSES_MAX][16];
	if (!own->facts.count || !query->asked.host[0])
		return;
	uint32_t count = add_addresses(resolver, own, addresses, 0);
	count = add_addresses(resolver, other, addresses, count);
	double seconds = own->facts.lowest - (now - own->came);
	if (count)
		resolver->options.publish(resolver->options.relay, query->asker->container, query->asked.host, NULL, addresses[0],
		                          count < NAME_ADDRESSES_MAX ? count : NAME_ADDRESSES_MAX,
		                          seconds > NAME_KEPT ? seconds : NAME_KEPT);
}

/* Passes upstream's answer on. `other` is that of the other family; NULL: none. */
static void answer(struct resolver *resolver, const struct query *query, const struct known *own, const struct known *other,
                   double now)
{
	struct passing_on to = {.has_v6 = (uint32_t)resolver->has_v6, .limit = MESSAGE_MAX};
	to.age = now > own->came ? (uint32_t)(now - own->came) : 0;
	publish(resolver, query, own, other, now);
	if (query->token) {
		uint32_t length = answer_write(known_message(own), own->length, &query->asked, query->question, &to,
		                               resolver->scratch);
		struct resolver_event *event = event_new(resolver, RESOLVER_REPLY, resolver->scratch, length);
		if (event)
			event->token = query->token;
	} else {
		struct datagram *datagram = datagram_to(resolver, &query->way);
		to.limit = answer_limit(&query->asked);
		datagram->length = answer_write(known_message(own), own->length, &query->asked, query->question, &to,
		                                datagram->bytes);
	}
	record(resolver, RESOLVER_ANSWERED, query, own->facts.code & 0xf);
}

/* ---- queries that wait for upstream ---- */

static void start(struct waiting *waiting, double now);

static struct waiting *waiting_new(struct resolver *resolver, const struct query *query)
{
	struct waiting *waiting = calloc(1, sizeof *waiting + query->asked.length);
	if (!waiting)
		return NULL;
	waiting->resolver = resolver;
	waiting->query = *query;
	if (query->asked.length)
		memcpy(waiting->question, query->question, query->asked.length);
	waiting->query.question = waiting->question;
	return waiting;
}

/* Gives a place back, or to the first one that waits for it. */
static void leave_place(struct resolver *resolver, struct asker *asker, double now)
{
	struct waiting *next = asker->patient;
	asker->places--;
	if (!next || asker->is_gone)
		return;
	asker->places++;
	asker->patient = next->next;
	if (!asker->patient)
		asker->last_patient = &asker->patient;
	if (next->query.asked.length) {
		start(next, now);
		return;
	}
	struct resolver_event *event = event_new(resolver, RESOLVER_PLACE, NULL, 0);
	if (event)
		event->token = next->query.token;
	free(next);
}

static void leave_second(struct waiting *waiting)
{
	struct resolver *resolver = waiting->resolver;
	if (!waiting->link)
		return;
	*waiting->link = waiting->next;
	*(waiting->next ? &waiting->next->link : &resolver->last_second) = waiting->link;
	waiting->link = NULL;
}

static void join_second(struct waiting *waiting, double now)
{
	struct resolver *resolver = waiting->resolver;
	waiting->until = now + SECOND_FAMILY;
	waiting->next = NULL;
	waiting->link = resolver->last_second;
	*resolver->last_second = waiting;
	resolver->last_second = &waiting->next;
}

static void waiting_free(struct waiting *waiting)
{
	if (waiting->before || waiting->resolver->begun == waiting)
		*(waiting->before ? &waiting->before->after : &waiting->resolver->begun) = waiting->after;
	if (waiting->after)
		waiting->after->before = waiting->before;
	known_release(waiting->answers[0]);
	known_release(waiting->answers[1]);
	free(waiting);
}

/* Answers the query, once. */
static void finish(struct waiting *waiting, double now)
{
	struct resolver *resolver = waiting->resolver;
	struct query *query = &waiting->query;
	if (waiting->is_done)
		return;
	waiting->is_done = 1;
	leave_second(waiting);
	if (!query->asker->is_gone && !waiting->is_unwanted) {
		if (waiting->answers[0]) {
			answer(resolver, query, waiting->answers[0], waiting->answers[1], now);
		} else {
			query->asker->counts.unanswered++;
			refuse(resolver, query, CODE_SERVFAIL);
		}
	}
	leave_place(resolver, query->asker, now);
	asker_release(query->asker);
}

static void own_came(struct waiter *waiter, struct known *known, double now)
{
	struct waiting *waiting = (struct waiting *)((char *)waiter - offsetof(struct waiting, own));
	waiting->own_is_due = 0;
	waiting->answers[0] = known ? known_hold(known) : NULL;
	if (waiting->other_is_due && known && known->facts.count)
		join_second(waiting, now);
	else
		finish(waiting, now);
	if (!waiting->other_is_due)
		waiting_free(waiting);
}

static void other_came(struct waiter *waiter, struct known *known, double now)
{
	struct waiting *waiting = (struct waiting *)((char *)waiter - offsetof(struct waiting, other));
	waiting->other_is_due = 0;
	waiting->answers[1] = known ? known_hold(known) : NULL;
	if (waiting->own_is_due)
		return;
	finish(waiting, now);
	waiting_free(waiting);
}

/* Writes the question for the other family of the name's addresses, which the relay dials too, whichever was asked for.
 * Returns 0 if it isn't needed: without IPv6, only IPv4 can be dialled. */
static int other_family(const struct resolver *resolver, const struct question *asked, const uint8_t *folded, uint8_t *out)
{
	if (!asked->host[0] || !(asked->kind == TYPE_AAAA || (asked->kind == TYPE_A && resolver->has_v6)))
		return 0;
	memcpy(out, folded, asked->length);
	out[asked->length - 3] = asked->kind == TYPE_A ? TYPE_AAAA : TYPE_A;
	return 1;
}

static void fold(const struct question *asked, const uint8_t *question, uint8_t *out)
{
	for (uint32_t i = 0; i < asked->length; i++)
		out[i] = i + 4 < asked->length && question[i] >= 'A' && question[i] <= 'Z' ? question[i] | 0x20 : question[i];
}

/* Asks upstream. The query has its place. */
static void start(struct waiting *waiting, double now)
{
	struct resolver *resolver = waiting->resolver;
	const struct question *asked = &waiting->query.asked;
	uint8_t own[260], other[260];
	fold(asked, waiting->question, own);
	waiting->own = (struct waiter){.then = own_came};
	waiting->other = (struct waiter){.then = other_came};
	waiting->query.asker->references++;
	waiting->before = NULL;
	waiting->after = resolver->begun;
	if (waiting->after)
		waiting->after->before = waiting;
	resolver->begun = waiting;
	waiting->own_is_due = 1;
	if (other_family(resolver, asked, own, other)) {
		struct known *known = cache_get(resolver->cache, other, asked->length, now);
		waiting->other_is_due = !known || known->length;
	}
	if (waiting->other_is_due)
		upstream_ask(resolver->upstream, other, asked->length, &waiting->other, now);
	upstream_ask(resolver->upstream, own, asked->length, &waiting->own, now);
}

/* Answers the query if the answer is known, and that of the other family too. Returns 0 if not. */
static int answer_from_cache(struct resolver *resolver, const struct query *query, double now)
{
	uint8_t folded[260], second[260];
	uint32_t length = query->asked.length;
	struct known *own, *other = NULL;
	fold(&query->asked, query->question, folded);
	own = cache_get(resolver->cache, folded, length, now);
	if (!own || !own->length)
		return 0;
	if (own->facts.count && other_family(resolver, &query->asked, folded, second)) {
		other = cache_get(resolver->cache, second, length, now);
		if (!other)
			return 0;
	}
	answer(resolver, query, own, other, now);
	return 1;
}

static void wait_for_place(struct waiting *waiting)
{
	struct asker *asker = waiting->query.asker;
	asker->counts.over_budget++;
	waiting->next = NULL;
	*asker->last_patient = waiting;
	asker->last_patient = &waiting->next;
}

/* Answers a query that only upstream can answer, from the cache or as soon as upstream's answer comes. */
static void pass(struct resolver *resolver, const struct query *query, double now)
{
	struct asker *asker = query->asker;
	if (answer_from_cache(resolver, query, now))
		return;
	int has_place = asker->places < asker->budget.queries;
	struct waiting *waiting = has_place || query->token ? waiting_new(resolver, query) : NULL;
	if (!waiting) {
		refuse_too_many(resolver, query);
	} else if (has_place) {
		asker->places++;
		start(waiting, now);
	} else {
		wait_for_place(waiting);
	}
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
		pass(resolver, &query, now);
		return;
	}
	struct resolver_event *event = event_new(resolver, RESOLVER_QUESTION, queued->bytes, queued->length);
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
	refuse_too_many(resolver, &query);
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
		event_new(resolver, RESOLVER_LOST, NULL, 0);
}

/* ---- a turn ---- */

static double deadline_of(const struct resolver *resolver)
{
	double upstream = upstream_deadline(resolver->upstream);
	if (resolver->askers.first_turn)
		return 0;
	return resolver->second && resolver->second->until < upstream ? resolver->second->until : upstream;
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
	while (resolver->second && resolver->second->until <= now)
		finish(resolver->second, now);
	upstream_expire(resolver->upstream, now);
	flush(resolver);
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
		signal_to(resolver->wake);
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

static void free_patient(struct asker *asker)
{
	while (asker->patient) {
		struct waiting *gone = asker->patient;
		asker->patient = gone->next;
		free(gone);
	}
	asker->last_patient = &asker->patient;
}

void resolver_close(struct resolver *resolver)
{
	if (resolver->has_thread) {
		pthread_mutex_lock(&resolver->lock);
		resolver->is_closing = 1;
		signal_to(resolver->wake);
		pthread_mutex_unlock(&resolver->lock);
		pthread_join(resolver->thread, NULL);
	}
	upstream_free(resolver->upstream);
	while (resolver->begun) {
		struct waiting *waiting = resolver->begun;
		if (!waiting->is_done)
			asker_release(waiting->query.asker);
		waiting_free(waiting);
	}
	for (struct wish *wish = resolver->wishes, *next; wish; wish = next) {
		next = wish->next;
		free(wish);
	}
	for (uint32_t i = 0; i < ASKER_BUCKETS; i++) {
		while (resolver->askers.buckets[i]) {
			free_patient(resolver->askers.buckets[i]);
			asker_remove(&resolver->askers, resolver->askers.buckets[i]);
		}
	}
	cache_free(resolver->cache);
	for (struct resolver_event *event; (event = take_event(resolver));)
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
	free_patient(asker);
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

static void wish_came(struct waiter *waiter, struct known *known, double now)
{
	struct wish *wish = (struct wish *)waiter;
	struct resolver_event *event = event_new(wish->resolver, RESOLVER_ANSWER, known ? known_message(known) : NULL,
	                                         known ? known->length : 0);
	if (event) {
		event->token = wish->token;
		event->came = known ? known->came : now;
		if (known)
			event->facts = known->facts;
	}
	*wish->link = wish->next;
	if (wish->next)
		wish->next->link = wish->link;
	free(wish);
}

void resolver_question(struct resolver *resolver, uint64_t token, const uint8_t *question, uint32_t length, double now)
{
	struct wish *wish = calloc(1, sizeof *wish);
	enter(resolver);
	if (wish) {
		*wish = (struct wish){.waiter = {.then = wish_came}, .next = resolver->wishes, .link = &resolver->wishes,
		                      .resolver = resolver, .token = token};
		if (wish->next)
			wish->next->link = &wish->next;
		resolver->wishes = wish;
		upstream_ask(resolver->upstream, question, length, &wish->waiter, now);
	}
	leave(resolver);
}

void resolver_query(struct resolver *resolver, struct asker *asker, uint64_t token, const uint8_t *wire, uint32_t length,
                    double now)
{
	struct query query = {.asker = asker, .token = token, .came = now, .question = wire + MESSAGE_HEADER};
	if (!question_read(wire, length, &query.asked))
		return;
	enter(resolver);
	pass(resolver, &query, now);
	flush(resolver);
	leave(resolver);
}

int resolver_enter(struct resolver *resolver, struct asker *asker, uint64_t token)
{
	struct query query = {.asker = asker, .token = token};
	enter(resolver);
	int has_place = asker->places < asker->budget.queries;
	struct waiting *waiting = has_place ? NULL : waiting_new(resolver, &query);
	if (waiting)
		wait_for_place(waiting);
	else
		asker->places++;
	leave(resolver);
	return !waiting;
}

void resolver_leave(struct resolver *resolver, struct asker *asker, double now)
{
	enter(resolver);
	leave_place(resolver, asker, now);
	flush(resolver);
	leave(resolver);
}

int resolver_withdraw(struct resolver *resolver, struct asker *asker, uint64_t token)
{
	int was_patient = 0;
	enter(resolver);
	for (struct waiting **link = &asker->patient; *link && !was_patient;) {
		struct waiting *waiting = *link;
		if (waiting->query.token == token) {
			*link = waiting->next;
			if (!*link)
				asker->last_patient = link;
			free(waiting);
			was_patient = 1;
		} else {
			link = &waiting->next;
		}
	}
	for (struct waiting *waiting = resolver->begun; waiting && !was_patient; waiting = waiting->after)
		if (waiting->query.token == token)
			waiting->is_unwanted = 1;
	leave(resolver);
	return was_patient;
}

void resolver_reply(struct resolver *resolver, struct asker *asker, const struct datagram_way *way, const uint8_t *answer,
                    uint32_t length)
{
	enter(resolver);
	asker_replied(&resolver->askers, asker);
	if (length && length <= DATAGRAM_MAX) {
		struct datagram *datagram = datagram_to(resolver, way);
		datagram->length = length;
		memcpy(datagram->bytes, answer, length);
	}
	leave(resolver);
}

void resolver_flush(struct resolver *resolver)
{
	enter(resolver);
	flush(resolver);
	leave(resolver);
}

void resolver_pass(struct resolver *resolver, struct asker *asker, const struct datagram_way *way, const uint8_t *wire,
                   uint32_t length, double now)
{
	struct query query = {.asker = asker, .way = *way, .came = now, .question = wire + MESSAGE_HEADER};
	enter(resolver);
	asker_replied(&resolver->askers, asker);
	if (question_read(wire, length, &query.asked))
		pass(resolver, &query, now);
	leave(resolver);
}

void resolver_told(struct resolver *resolver, struct flight *flight, const uint8_t *message, uint32_t length, double now)
{
	enter(resolver);
	upstream_told(resolver->upstream, flight, message, length, now);
	flush(resolver);
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
	struct resolver_event *event = take_event(resolver);
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
