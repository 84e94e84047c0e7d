/* The containers' resolver: receives their queries over UDP, and answers those that upstream's servers can answer.
 *
 * Every other query is an event for Python, which knows the names that rules serve. The names and addresses of an answer
 * are published before it is sent. Of all datagrams that wait to be read before one is answered, the containers have
 * turns: one that floods us fills its own queue, and no other's. One lock guards everything, and all functions may be
 * called from any thread; none but resolver_close() blocks for longer than one turn. `now` is in seconds: CLOCK_MONOTONIC
 * beside the thread, and any clock without it.
 */
#ifndef PYINTERCEPTOR_RESOLVER_H
#define PYINTERCEPTOR_RESOLVER_H

#include "datagrams.h"
#include "nameservers.h"

struct resolver;              /* opaque */
struct asker;                 /* opaque: one container, as DNS sees it */
struct flight;                /* opaque: a question that is being asked upstream */
struct relay;

struct resolver_options {
	uint64_t cache_size;      /* bytes for answers that are kept */
	uint32_t port_queries;    /* default: PORT_QUERIES */
	uint32_t reserved;
	/* The functions of a relay, called with the lock held: relay_publish_name(), relay_decide_name(). */
	struct relay *relay;
	int (*publish)(struct relay *relay, uint32_t container, const char *name, const uint8_t *synthetic,
	               const uint8_t *addresses, uint32_t count, double seconds);
	int (*decide)(struct relay *relay, uint32_t container, const char *name);
};

/* Returns NULL with errno on failure. */
struct resolver *resolver_open(const struct resolver_options *options);

/* Ends the thread and frees everything, askers and events included. */
void resolver_close(struct resolver *resolver);

/* Starts a thread, in the network namespace of the calling one, that waits and steps. Returns 0 or -errno. */
int resolver_start(struct resolver *resolver);

/* Without the thread, its caller waits until the epoll is readable or the deadline has come, and then calls
 * resolver_step(). */
int resolver_epoll(struct resolver *resolver);
double resolver_deadline(struct resolver *resolver);
void resolver_step(struct resolver *resolver, double now);

/* Serves a dual-stack socket with IP_PKTINFO and IPV6_RECVPKTINFO, and sets SO_RXQ_OVFL on it. Borrows it. One socket can
 * be served. Returns 0 or -errno. */
int resolver_listen(struct resolver *resolver, int fd);

/* Sets the servers, in the order in which they are asked. Returns 0 or -ENOMEM. */
int resolver_set_servers(struct resolver *resolver, const struct nameserver *servers, uint32_t count);

/* Sets whether the host has an IPv6 route. Without one, no answer has AAAA records. */
void resolver_set_v6(struct resolver *resolver, int has_v6);

/* Sets whether there are events for records: RESOLVER_ANSWERED and RESOLVER_OVER_BUDGET. */
void resolver_observe(struct resolver *resolver, int is_observed);

/* ---- the containers ---- */

/* Adds the container whose queries arrive on the interface. `own` is its host name, whose queries are Python's. Returns
 * NULL if memory is short. */
struct asker *resolver_add(struct resolver *resolver, uint32_t container, uint32_t interface,
                           const struct resolver_budget *budget, const char *own);

/* Removes it. Its queries get no answer from now on, and none of its tokens an event. */
void resolver_remove(struct resolver *resolver, struct asker *asker);

void resolver_count(struct resolver *resolver, const struct asker *asker, struct resolver_counts *out);

/* Returns the number of datagrams for which the socket's queue had no room. */
uint64_t resolver_lost(struct resolver *resolver);

/* ---- queries ---- */

/* Asks upstream a question: name in lower case, type, class. A RESOLVER_ANSWER follows. */
void resolver_question(struct resolver *resolver, uint64_t token, const uint8_t *question, uint32_t length, double now);

/* Answers a container's query that came over TCP and that only upstream can answer. A RESOLVER_REPLY follows. If the
 * budget of queries is used up, it waits for its turn. */
void resolver_query(struct resolver *resolver, struct asker *asker, uint64_t token, const uint8_t *wire, uint32_t length,
                    double now);

/* Takes a place of the budget of queries. Returns 1; 0 if a RESOLVER_PLACE follows when there is one. */
int resolver_enter(struct resolver *resolver, struct asker *asker, uint64_t token);

/* Gives the place back. */
void resolver_leave(struct resolver *resolver, struct asker *asker, double now);

/* Withdraws a token of resolver_query() or resolver_enter(). Returns 1 if it was waiting for its turn. */
int resolver_withdraw(struct resolver *resolver, struct asker *asker, uint64_t token);

/* Answers a RESOLVER_QUESTION; with length 0 not at all. resolver_flush() sends the answers. */
void resolver_reply(struct resolver *resolver, struct asker *asker, const struct datagram_way *way, const uint8_t *answer,
                    uint32_t length);
void resolver_flush(struct resolver *resolver);

/* Passes the query of a RESOLVER_QUESTION on, as only upstream can answer it. */
void resolver_pass(struct resolver *resolver, struct asker *asker, const struct datagram_way *way, const uint8_t *wire,
                   uint32_t length, double now);

/* Reports the answer over TCP to a RESOLVER_TCP; NULL if there was none. */
void resolver_told(struct resolver *resolver, struct flight *flight, const uint8_t *message, uint32_t length, double now);

/* ---- events ---- */

enum resolver_event_kind {
	RESOLVER_QUESTION = 1,    /* `bytes`: a query over UDP that Python must reply to or pass */
	RESOLVER_ANSWER = 2,      /* `bytes`: upstream's message; empty if no server has answered */
	RESOLVER_REPLY = 3,       /* `bytes`: the message for the container */
	RESOLVER_PLACE = 4,
	RESOLVER_TCP = 5,         /* `bytes`: the query to ask `server` over TCP for `flight` */
	RESOLVER_ANSWERED = 6,    /* `bytes`: a query that was answered, with `code` */
	RESOLVER_OVER_BUDGET = 7, /* `bytes`: a query that exceeded the budget */
	RESOLVER_LOST = 8,        /* the socket's queue had no room for a datagram */
};

struct resolver_event {
	struct resolver_event *next;
	uint32_t kind;            /* enum resolver_event_kind */
	uint32_t container;       /* 0: none */
	uint64_t token;
	struct flight *flight;
	double came;              /* seconds: the query to be answered, or upstream's answer */
	struct datagram_way way;
	struct nameserver server;
	struct answer facts;      /* of `bytes`, with RESOLVER_ANSWER */
	uint32_t code;            /* RCODE */
	uint32_t length;
	uint8_t bytes[];
};

#define RESOLVER_RECORDS_MAX 4096 /* events for records that wait; further ones are dropped and counted */

/* Returns an eventfd that becomes readable when an event comes. Borrowed. */
int resolver_event_fd(struct resolver *resolver);

/* Returns the oldest event, which the caller frees by resolver_event_free(); NULL if there is none. */
struct resolver_event *resolver_take(struct resolver *resolver);
void resolver_event_free(struct resolver_event *event);

/* Returns the number of dropped events for records, and sets it to 0. */
uint64_t resolver_dropped(struct resolver *resolver);

#endif
