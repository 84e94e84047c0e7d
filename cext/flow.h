/* A flow: one captured connection, from accept to its end.
 *
 * flow.c has the table of legal transitions and the only loop over a flow's steps (steps.h), which run the phases
 * judge, connect, follow and move. Only flow.c hands a flow to Python or ends it. A flow belongs to one thread; no
 * other thread uses it. Called by accept.c and thread.c.
 */
#ifndef PYINTERCEPTOR_FLOW_H
#define PYINTERCEPTOR_FLOW_H

#include "buffers.h"
#include "connect.h"
#include "container.h"
#include "follow.h"
#include "judge.h"
#include "move.h"
#include "timers.h"
#include "transitions.h"
#include "watch.h"

#define COOKIE_UPSTREAM 1 /* lowest bit of epoll's data for an upstream socket; the other bits are the flow's address */

struct side {
	int fd;               /* -1: none */
	uint8_t is_readable;  /* epoll reported bytes that peek() hasn't read yet */
	uint8_t has_closed;   /* the peer has closed its half: no further bytes will arrive */
	uint8_t looks;        /* number of peeks at an incomplete head; QUIET and STALLED: SO_RCVLOWAT is raised */
	uint8_t is_quiet;     /* 1: don't peek before the flow's look_again */
	uint32_t seen;        /* bytes of the incomplete head at the last of these peeks */
};

/* When each step happened: seconds, CLOCK_MONOTONIC; 0: not yet. */
struct steps {
	double accepted, judged, connected, answered;
};

struct flow {
	struct flow *next, **link; /* in its share's list, or in the list of dead flows */
	struct flow *next_ready;
	struct container *container; /* holds a reference */
	struct share *share;
	uint64_t number;
	uint32_t published;        /* the share's `published` when the flow was last decided */
	uint8_t state, goal;       /* enum flow_state; `goal`: the state after it is connected */
	uint8_t is_ready, is_broken, protocol, cause;
	uint8_t is_servers_end;    /* the server closed its side before we closed ours: the port won't rest */
	struct port_use *port;     /* of the upstream socket; NULL: none */
	uint8_t descriptors;       /* places that it holds; those of a dial's further attempts are the dial's */
	struct timer timer;
	struct endpoint from;
	struct subject subject;
	struct side client, upstream;
	struct direction sent, received;
	struct buffers buffers;
	struct connecting connecting;
	struct sniffing opening;
	struct follow follow;
	struct watch watch;
	struct exchange *exchange; /* the followed request; NULL: none, or no subscriber */
	struct steps steps;
	uint64_t progress;         /* bytes moved plus sides closed, after the last step: a change is activity */
	double first_byte, last_byte, dial_began, look_again; /* seconds, CLOCK_MONOTONIC */
};

/* The flows of one thread. */
struct flows {
	struct relay *relay;                 /* for events and records */
	const struct relay_options *options;
	struct counters *totals;
	struct workspace *workspace;
	_Atomic uint64_t *numbers;
	uint32_t thread;                     /* the thread's number: index of its share in a container */
	int epoll, netlink;
	struct ports *ports;                 /* the relay's */
	struct nudges nudges;
	double now;
	struct timers timers;
	struct flow *ready, *dead;
};

/* Begins a flow: takes the socket, the caller's reference to the container and its container_take_flow(). Returns 0 if
 * memory is short, and takes none of them. */
int flow_begin(struct flows *flows, struct container *container, int client, const struct endpoint *from,
               const struct endpoint *to);

/* Handles an epoll event with a flow's cookie, as flow_begin() and the dial registered it. */
void flow_event(struct flows *flows, uint64_t cookie, uint32_t events);

/* Handles news (bits of enum news) for the share's flows. */
void flows_hear(struct flows *flows, struct share *share, uint32_t news);

/* Steps the flows whose deadline has passed. */
void flows_serve_due(struct flows *flows);

/* Steps the flows that had more bytes to move when their turn ended. */
void flows_serve_ready(struct flows *flows);

/* Returns the time of the next deadline, seconds of CLOCK_MONOTONIC, or 0 if there is none. */
double flows_next(const struct flows *flows);

/* Steps the flows that have waited for a port and may get one now. */
void flows_serve_nudged(struct flows *flows);

/* Frees ended flows. Call it after every event of the turn was handled: a later event could name the same flow. */
void flows_bury(struct flows *flows);

/* Ends and frees all flows. */
void flows_close(struct flows *flows);

/* Counts and records a connection that is refused before it becomes a flow. */
void connection_refused(struct flows *flows, struct container *container, const struct endpoint *from,
                        const struct endpoint *to, enum end_cause cause);

/* Makes close(2) of a socket send a reset, or a FIN. -1 is allowed. */
void set_linger(int fd, int is_reset);

#endif
