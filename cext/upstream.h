/* Asks the host's resolvers, over UDP, and keeps their answers.
 *
 * Many askers of one question share one query. The queries to a server are spread over random ports, of which each is
 * used for a limited number of queries, with random ids: an answer can't be forged without guessing both (RFC 5452).
 * Called by resolver, with its lock held; the caller passes the time, and waits for the sockets in its epoll.
 */
#ifndef PYINTERCEPTOR_UPSTREAM_H
#define PYINTERCEPTOR_UPSTREAM_H

#include "cache.h"
#include "nameservers.h"

struct upstream;
struct flight;                /* a question that is being asked */
struct port;                  /* a socket that is connected to one server */

/* A user of one answer, embedded in its owner's memory. `then` is called once, perhaps within upstream_ask(), with the
 * answer, borrowed; NULL if no server has answered. */
struct waiter {
	struct waiter *next;
	void (*then)(struct waiter *waiter, struct known *answer, double now);
};

/* Called with a query whose answer over UDP was cut: the owner asks `server` over TCP, and then calls upstream_told().
 * Returns 0 if it can't. */
typedef int over_tcp(void *owner, struct flight *flight, const struct nameserver *server, const uint8_t *query,
                     uint32_t length);

/* Borrows the epoll and the cache; sockets have their port as epoll's data. `port_queries`: queries with one socket, which
 * is then replaced. Returns NULL if memory is short. */
struct upstream *upstream_new(int epoll, struct cache *cache, uint32_t port_queries, over_tcp *over_tcp, void *owner);

/* Closes the sockets. No waiter is called. */
void upstream_free(struct upstream *upstream);

/* Sets the servers, in the order in which they are asked. Returns 0, or -ENOMEM. */
int upstream_set_servers(struct upstream *upstream, const struct nameserver *servers, uint32_t count);

/* Asks a question (name in lower case, type, class). An error of a server (SERVFAIL, REFUSED, …) is the answer only if no
 * other server has a better one. */
void upstream_ask(struct upstream *upstream, const uint8_t *question, uint32_t length, struct waiter *waiter, double now);

/* Reports the answer over TCP; NULL if there was none: then the next server is asked. */
void upstream_told(struct upstream *upstream, struct flight *flight, const uint8_t *message, uint32_t length, double now);

/* Reads one message of a socket that is ready. */
void upstream_read(struct upstream *upstream, struct port *port, double now);

/* Repeats the queries whose time is up, and frees the sockets that were closed since the last call: epoll's events from
 * before it must all have been handled. */
void upstream_expire(struct upstream *upstream, double now);

/* Returns the time of the next upstream_expire() in seconds; INFINITY if none is needed. */
double upstream_deadline(const struct upstream *upstream);

#endif
