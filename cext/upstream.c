/* SPDX-License-Identifier: Apache-2.0
 *
 * The questions that are being asked upstream, and their sockets. Owns both. upstream.h names the callers.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "addresses.h"
#include "upstream.h"

#define BUCKETS 1024
#define RANDOMS 512
#define QUERY_MAX (MESSAGE_HEADER + 255 + 4 + sizeof opt)

enum { CODE_FORMERR = 1, CODE_NXDOMAIN = 3, CODE_NOTIMP = 4 };

static const uint8_t opt[] = {0, 0, 41, UDP_ANSWER_MAX >> 8, UDP_ANSWER_MAX & 0xff, 0, 0, 0, 0, 0, 0};

struct server {
	struct server *next;         /* all that were ever set: a flight may still ask one that is set no more */
	struct nameserver address;
	double plain_until;          /* seconds: it is asked without EDNS */
	struct port *ports[NAMESERVER_PORTS];
};

struct port {
	struct port *next;           /* list of the ports that are open, or of those that are closed */
	struct port **link;
	struct server *server;
	struct flight *pending;
	uint32_t queries;
	int fd;                      /* -1: closed */
};

struct flight {
	struct flight *next;         /* in its hash chain */
	struct flight *earlier, *later; /* by the time at which their query ends */
	struct flight *beside;       /* on the same port */
	struct waiter *waiters, **last;
	struct port *port;           /* NULL: no query over UDP is open */
	struct server *server;       /* that was asked last */
	struct known *unsure;        /* an error, or an answer that was cut: better than none */
	double until;                /* seconds: the end of its query */
	uint32_t turn;               /* index of the next server */
	uint32_t round;
	uint16_t number;             /* the query's id */
	uint8_t is_edns;
	uint8_t is_timed;            /* 1: in the list of times */
	uint32_t length;
	uint8_t question[];
};

struct upstream {
	int epoll;
	struct cache *cache;
	over_tcp *over_tcp;
	void *owner;
	uint64_t seed;
	uint32_t port_queries;
	struct server *all, **order; /* `order`: the servers that are asked */
	uint32_t count;              /* of `order` */
	struct port *open, *closed;
	struct flight *first, *last; /* by the time at which their query ends */
	struct flight *chains[BUCKETS];
	uint16_t randoms[RANDOMS];
	uint32_t random_count;
	uint8_t buffer[MESSAGE_MAX];
};

static void ask_next(struct upstream *upstream, struct flight *flight, double now);

struct upstream *upstream_new(int epoll, struct cache *cache, uint32_t port_queries, over_tcp *over_tcp, void *owner)
{
	struct upstream *upstream = calloc(1, sizeof *upstream);
	if (!upstream)
		return NULL;
	*upstream = (struct upstream){.epoll = epoll, .cache = cache, .over_tcp = over_tcp, .owner = owner,
	                              .port_queries = port_queries};
	if (getrandom(&upstream->seed, sizeof upstream->seed, 0) != sizeof upstream->seed) {
		free(upstream);
		return NULL;
	}
	return upstream;
}

/* Returns 16 bits that nobody can guess. */
static uint16_t random16(struct upstream *upstream)
{
	while (upstream->random_count == 0) {
		ssize_t got = getrandom(upstream->randoms, sizeof upstream->randoms, 0);
		upstream->random_count = got > 0 ? (uint32_t)((size_t)got / sizeof *upstream->randoms) : 0;
	}
	return upstream->randoms[--upstream->random_count];
}

/* ---- servers ---- */

static struct server *server_of(struct upstream *upstream, const struct nameserver *address)
{
	struct server *server = upstream->all;
	while (server && memcmp(&server->address, address, sizeof *address) != 0)
		server = server->next;
	if (!server && (server = calloc(1, sizeof *server))) {
		server->address = *address;
		server->next = upstream->all;
		upstream->all = server;
	}
	return server;
}

int upstream_set_servers(struct upstream *upstream, const struct nameserver *servers, uint32_t count)
{
	struct server **order = calloc(count + 1u, sizeof *order);
	if (!order)
		return -ENOMEM;
	for (uint32_t i = 0; i < count; i++) {
		if (!(order[i] = server_of(upstream, &servers[i]))) {
			free(order);
			return -ENOMEM;
		}
	}
	free(upstream->order);
	upstream->order = order;
	upstream->count = count;
	return 0;
}

/* ---- ports ---- */

static void join_list(struct port *port, struct port **list)
{
	port->link = list;
	port->next = *list;
	if (port->next)
		port->next->link = &port->next;
	*list = port;
}

static void leave_list(struct port *port)
{
	*port->link = port->next;
	if (port->next)
		port->next->link = port->link;
}

static int connected(const struct nameserver *to)
{
	int is_v4 = address_is_v4(to->address);
	int fd = socket(is_v4 ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(to->port)};
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(to->port), .sin6_scope_id = to->scope};
	memcpy(&v4.sin_addr, to->address + 12, sizeof v4.sin_addr);
	memcpy(&v6.sin6_addr, to->address, sizeof v6.sin6_addr);
	const struct sockaddr *name = is_v4 ? (const struct sockaddr *)&v4 : (const struct sockaddr *)&v6;
	if (connect(fd, name, is_v4 ? sizeof v4 : sizeof v6) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static struct port *port_new(struct upstream *upstream, struct server *server)
{
	struct port *port = calloc(1, sizeof *port);
	if (!port)
		return NULL;
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = port};
	port->server = server;
	port->fd = connected(&server->address);
	if (port->fd >= 0 && epoll_ctl(upstream->epoll, EPOLL_CTL_ADD, port->fd, &event) == 0) {
		join_list(port, &upstream->open);
		return port;
	}
	if (port->fd >= 0)
		close(port->fd);
	free(port);
	return NULL;
}

/* Returns one of the server's sockets by chance, perhaps a new one; NULL if it can have none. */
static struct port *port_of(struct upstream *upstream, struct server *server)
{
	uint32_t chosen = random16(upstream) % NAMESERVER_PORTS;
	if (!server->ports[chosen])
		server->ports[chosen] = port_new(upstream, server);
	for (uint32_t tries = 0; !server->ports[chosen] && tries < NAMESERVER_PORTS; tries++)
		chosen = (chosen + 1) % NAMESERVER_PORTS;
	struct port *port = server->ports[chosen];
	if (port && ++port->queries >= upstream->port_queries)
		server->ports[chosen] = NULL;
	return port;
}

/* Closes a socket that has had its queries, with the last of them. An event of it may still wait to be handled. */
static void retire(struct upstream *upstream, struct port *port)
{
	if (port->queries < upstream->port_queries || port->pending || port->fd < 0)
		return;
	close(port->fd);
	port->fd = -1;
	leave_list(port);
	join_list(port, &upstream->closed);
}

static void free_closed(struct upstream *upstream)
{
	for (struct port *port = upstream->closed, *next; port; port = next) {
		next = port->next;
		free(port);
	}
	upstream->closed = NULL;
}

/* ---- the times of queries: all take as long, so the first begun ends first ---- */

static void join_times(struct upstream *upstream, struct flight *flight, double until)
{
	flight->until = until;
	flight->is_timed = 1;
	flight->later = NULL;
	flight->earlier = upstream->last;
	*(upstream->last ? &upstream->last->later : &upstream->first) = flight;
	upstream->last = flight;
}

static void leave_times(struct upstream *upstream, struct flight *flight)
{
	if (!flight->is_timed)
		return;
	flight->is_timed = 0;
	*(flight->earlier ? &flight->earlier->later : &upstream->first) = flight->later;
	*(flight->later ? &flight->later->earlier : &upstream->last) = flight->earlier;
}

/* ---- queries ---- */

static uint32_t write_query(const struct flight *flight, uint8_t *out)
{
	const uint8_t head[MESSAGE_HEADER] = {(uint8_t)(flight->number >> 8), (uint8_t)flight->number, 1 /* RD */, 0, 0, 1, 0, 0,
	                                      0, 0, 0, flight->is_edns};
	uint32_t length = MESSAGE_HEADER + flight->length;
	memcpy(out, head, MESSAGE_HEADER);
	memcpy(out + MESSAGE_HEADER, flight->question, flight->length);
	if (!flight->is_edns)
		return length;
	memcpy(out + length, opt, sizeof opt);
	return length + sizeof opt;
}

static struct flight *pending_on(const struct port *port, uint16_t number)
{
	struct flight *flight = port->pending;
	while (flight && flight->number != number)
		flight = flight->beside;
	return flight;
}

/* Ends the flight's query over UDP. */
static void leave_port(struct upstream *upstream, struct flight *flight)
{
	struct port *port = flight->port;
	leave_times(upstream, flight);
	if (!port)
		return;
	struct flight **link = &port->pending;
	while (*link != flight)
		link = &(*link)->beside;
	*link = flight->beside;
	flight->port = NULL;
	retire(upstream, port);
}

/* Sends the query to a server. Returns 0 if that failed. */
static int ask_server(struct upstream *upstream, struct flight *flight, struct server *server, double now)
{
	uint8_t query[QUERY_MAX];
	flight->server = server;
	flight->is_edns = server->plain_until <= now;
	struct port *port = port_of(upstream, server);
	if (!port)
		return 0;
	flight->number = random16(upstream);
	while (pending_on(port, flight->number))
		flight->number++;
	if (send(port->fd, query, write_query(flight, query), MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
		retire(upstream, port);
		return 0;
	}
	flight->port = port;
	flight->beside = port->pending;
	port->pending = flight;
	join_times(upstream, flight, now + NAMESERVER_TRY);
	return 1;
}

static struct flight **place_of(struct upstream *upstream, const uint8_t *question, uint32_t length)
{
	struct flight **link = &upstream->chains[question_hash(upstream->seed, question, length) % BUCKETS];
	while (*link && ((*link)->length != length || memcmp((*link)->question, question, length) != 0))
		link = &(*link)->next;
	return link;
}

/* Keeps the answer, or that none can be kept. */
static void keep(struct upstream *upstream, const struct flight *flight, struct known *answer, double now)
{
	if (answer && answer->facts.ttl) {
		cache_put(upstream->cache, answer);
		return;
	}
	struct known *lacking = known_new(flight->question, flight->length, NULL, 0, &(struct answer){0}, now);
	if (lacking) {
		lacking->until = now + NAMESERVER_LACKING;
		cache_put(upstream->cache, lacking);
		known_release(lacking);
	}
}

/* Ends the flight, which has no query. Borrows the answer. */
static void finish(struct upstream *upstream, struct flight *flight, struct known *answer, double now)
{
	struct flight **link = place_of(upstream, flight->question, flight->length);
	*link = flight->next;
	keep(upstream, flight, answer, now);
	for (struct waiter *waiter = flight->waiters, *next; waiter; waiter = next) {
		next = waiter->next;
		waiter->then(waiter, answer, now);
	}
	known_release(flight->unsure);
	free(flight);
}

/* Asks the next server. After the last round the flight ends with the best answer there was. */
static void ask_next(struct upstream *upstream, struct flight *flight, double now)
{
	leave_port(upstream, flight);
	for (;;) {
		while (flight->turn < upstream->count)
			if (ask_server(upstream, flight, upstream->order[flight->turn++], now))
				return;
		if (flight->unsure || ++flight->round == NAMESERVER_ROUNDS) {
			finish(upstream, flight, flight->unsure, now);
			return;
		}
		flight->turn = 0;
	}
}

void upstream_ask(struct upstream *upstream, const uint8_t *question, uint32_t length, struct waiter *waiter, double now)
{
	struct known *known = cache_get(upstream->cache, question, length, now);
	struct flight **link = place_of(upstream, question, length), *flight = *link;
	waiter->next = NULL;
	if (known && known->length) {
		known_hold(known);
		waiter->then(waiter, known, now);
		known_release(known);
		return;
	}
	if (flight) {
		*flight->last = waiter;
		flight->last = &waiter->next;
		return;
	}
	if (!(flight = calloc(1, sizeof *flight + length))) {
		waiter->then(waiter, NULL, now);
		return;
	}
	flight->length = length;
	memcpy(flight->question, question, length);
	flight->waiters = waiter;
	flight->last = &waiter->next;
	*link = flight;
	ask_next(upstream, flight, now);
}

/* ---- answers ---- */

/* Takes the answer of the flight's server, after its query has ended. */
static void take(struct upstream *upstream, struct flight *flight, struct known *answer, double now)
{
	const struct answer *facts = &answer->facts;
	if (facts->code == 0 || facts->code == CODE_NXDOMAIN) {
		finish(upstream, flight, answer, now);
		return;
	}
	int refuses_edns = facts->code == CODE_FORMERR || facts->code == CODE_NOTIMP;
	if (flight->is_edns && !facts->has_edns && refuses_edns) { /* it knows no EDNS (RFC 6891 section 7) */
		flight->server->plain_until = now + NAMESERVER_PLAIN;
		if (ask_server(upstream, flight, flight->server, now))
			return;
	} else if (!flight->unsure) {
		flight->unsure = known_hold(answer);
	}
	ask_next(upstream, flight, now);
}

/* Asks again over TCP, since the answer was cut. */
static void take_cut(struct upstream *upstream, struct flight *flight, struct known *answer, double now)
{
	uint8_t query[QUERY_MAX];
	known_release(flight->unsure);
	flight->unsure = known_hold(answer);
	flight->number = random16(upstream);
	if (!upstream->over_tcp(upstream->owner, flight, &flight->server->address, query, write_query(flight, query)))
		ask_next(upstream, flight, now);
}

/* Returns the answer to the flight's query; NULL if the message is malformed or another's. */
static struct known *answer_of(const struct flight *flight, const uint8_t *message, uint32_t length, double now)
{
	struct answer facts;
	if (!answer_read(message, length, flight->number, flight->question, flight->length, &facts))
		return NULL;
	return known_new(flight->question, flight->length, message, length, &facts, now);
}

void upstream_told(struct upstream *upstream, struct flight *flight, const uint8_t *message, uint32_t length, double now)
{
	struct known *answer = message ? answer_of(flight, message, length, now) : NULL;
	if (answer && !answer->facts.is_cut)
		take(upstream, flight, answer, now);
	else
		ask_next(upstream, flight, now);
	known_release(answer);
}

/* Asks the next servers, since this one's port is closed, or it is unreachable. */
static void leave_server(struct upstream *upstream, struct port *port, double now)
{
	struct flight *waiting = port->pending;
	port->pending = NULL;
	for (struct flight *flight = waiting; flight; flight = flight->beside)
		flight->port = NULL;
	for (struct flight *flight = waiting, *next; flight; flight = next) {
		next = flight->beside;
		ask_next(upstream, flight, now);
	}
	retire(upstream, port);
}

void upstream_read(struct upstream *upstream, struct port *port, double now)
{
	if (port->fd < 0)
		return;
	ssize_t length = recv(port->fd, upstream->buffer, sizeof upstream->buffer, MSG_DONTWAIT);
	if (length < 0) {
		if (errno != EAGAIN && errno != EINTR)
			leave_server(upstream, port, now);
		return;
	}
	struct flight *flight = length < 2 ? NULL : pending_on(port, (uint16_t)(upstream->buffer[0] << 8 | upstream->buffer[1]));
	struct known *answer = flight ? answer_of(flight, upstream->buffer, (uint32_t)length, now) : NULL;
	if (!answer)
		return;
	leave_port(upstream, flight);
	if (answer->facts.is_cut)
		take_cut(upstream, flight, answer, now);
	else
		take(upstream, flight, answer, now);
	known_release(answer);
}

void upstream_expire(struct upstream *upstream, double now)
{
	while (upstream->first && upstream->first->until <= now)
		ask_next(upstream, upstream->first, now);
	free_closed(upstream);
}

double upstream_deadline(const struct upstream *upstream)
{
	return upstream->first ? upstream->first->until : INFINITY;
}

void upstream_free(struct upstream *upstream)
{
	if (!upstream)
		return;
	for (uint32_t i = 0; i < BUCKETS; i++) {
		for (struct flight *flight = upstream->chains[i], *next; flight; flight = next) {
			next = flight->next;
			known_release(flight->unsure);
			free(flight);
		}
	}
	for (struct port *port = upstream->open, *next; port; port = next) {
		next = port->next;
		close(port->fd);
		free(port);
	}
	free_closed(upstream);
	for (struct server *server = upstream->all, *next; server; server = next) {
		next = server->next;
		free(server);
	}
	free(upstream->order);
	free(upstream);
}
