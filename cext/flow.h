/* A flow: one captured connection from accept to its end. flow.c has the only loop over its steps (steps.h), which run the phases judge,
 * connect, follow and move, and the table of legal states; it alone gives a flow to Python or ends it.
 *
 * A flow belongs to one thread and is touched by no other. Called by accept.c and thread.c.
 */
#ifndef PYINTERCEPTOR_FLOW_H
#define PYINTERCEPTOR_FLOW_H

#include "connect.h"
#include "container.h"
#include "follow.h"
#include "judge.h"
#include "move.h"
#include "timers.h"

#define COOKIE_UPSTREAM 1 /* the low bit of epoll's data for an upstream socket; the rest is the flow's address */

/* The client's first bytes decide a flow: until then it counts as an opening. EARLY: the server may be the one that speaks first. */
enum flow_state {
	FLOW_OPENING,         /* nothing is dialled; the client's first bytes are awaited */
	FLOW_EARLY_RESOLVING, /* addresses are looked for */
	FLOW_EARLY_DIALLING,
	FLOW_GREETING,        /* connected: the server's bytes pass, the client's wait for their verdict */
	FLOW_UNREACHABLE,     /* no server could be connected: a client that speaks HTTP is answered all the same */
	FLOW_RESOLVING,       /* decided; addresses are looked for */
	FLOW_DIALLING,
	FLOW_FOLLOWING,       /* plain HTTP, message by message */
	FLOW_UNFRAMED,        /* HTTP passes unseen, as no rule could decide another request differently */
	FLOW_SPLICING,        /* everything else passes unseen */
	FLOW_SERVED,          /* Python has the client's socket */
	FLOW_ENDED,
	FLOW_STATES
};

struct side {
	int fd;               /* -1: none */
	uint8_t is_readable;  /* epoll reported bytes that no look has seen */
	uint8_t has_closed;   /* the peer sends nothing more */
	uint8_t looks;        /* at a head that wasn't complete; above LOOKS_MAX: SO_RCVLOWAT is raised */
	uint8_t is_quiet;     /* no look before the flow's look_again */
};

/* Seconds of CLOCK_MONOTONIC; 0: hasn't happened. */
struct steps {
	double accepted, judged, connected, answered;
};

struct flow {
	struct flow *next, **link; /* in its share's list */
	struct flow *next_ready;
	struct container *container;
	struct share *share;
	uint64_t number;
	uint32_t published;        /* the count of the table that it was last decided by */
	uint8_t state, goal;       /* enum flow_state; `goal`: once it is connected */
	uint8_t is_ready, is_broken, protocol, cause;
	struct timer timer;
	struct endpoint from;
	struct subject subject;
	struct side client, upstream;
	struct direction sent, received;
	struct connecting connecting;
	struct sniffing opening;
	struct follow follow;
	struct exchange *exchange; /* of the request that is followed; NULL: none, or nobody subscribes */
	struct steps steps;
	uint64_t progress;         /* bytes moved and ends heard, when last looked at */
	double first_byte, last_byte, dial_began, look_again; /* seconds, CLOCK_MONOTONIC */
};

/* The flows of one thread. */
struct flows {
	struct relay *relay;                 /* for events */
	const struct relay_options *options;
	struct counters *totals;
	struct workspace *workspace;
	_Atomic uint64_t *numbers;
	uint32_t thread;                     /* the number of the share */
	int epoll, netlink;
	double now;
	struct timers timers;
	struct flow *ready, *dead;
};

/* Takes the socket and the container's reference. Returns 0 without memory: then neither is taken. */
int flow_begin(struct flows *flows, struct container *container, int client, const struct endpoint *from,
               const struct endpoint *to);

/* epoll's event for a cookie that flow_begin() or the dial gave. */
void flow_event(struct flows *flows, uint64_t cookie, uint32_t events);

/* What has come for the flows of a container: enum news. */
void flows_hear(struct flows *flows, struct share *share, uint32_t news);

/* Flows whose deadline is over, and flows that have more to move. */
void flows_serve_due(struct flows *flows);
void flows_serve_ready(struct flows *flows);

/* When the next deadline is over, seconds of CLOCK_MONOTONIC; 0: there is none. */
double flows_next(const struct flows *flows);

/* Frees ended flows, after every event of the turn has been looked at. */
void flows_bury(struct flows *flows);

/* Ends all of them. */
void flows_close(struct flows *flows);

void count_refused_connection(struct flows *flows, struct container *container, enum end_cause cause);
void set_linger(int fd, int is_reset);

#endif
