/* The steps of a flow: each runs a phase on the flow's sockets, for one state, and returns the state that comes next.
 *
 * They never end a flow, give it away or call the loop. Called by flow.c.
 */
#ifndef PYINTERCEPTOR_STEPS_H
#define PYINTERCEPTOR_STEPS_H

#include <errno.h>

#include "flow.h"

#define COUNT(flows, flow, what, by) \
	(atomic_fetch_add(&(flow)->container->counters.what, by), atomic_fetch_add(&(flows)->totals->what, by))

/* What comes next: the state that a flow is in when its phase returns; the same one waits. */
struct next {
	enum flow_state state;
	enum end_cause cause; /* ENDED: why; SERVED: what failed before */
};

static inline struct next go(enum flow_state state)
{
	return (struct next){state, END_DONE};
}

static inline struct next stay(const struct flow *flow)
{
	return go((enum flow_state)flow->state);
}

static inline struct next end(enum end_cause cause)
{
	return (struct next){FLOW_ENDED, cause};
}

/* A call on a socket has failed: for want of something here, or because its peer did. */
static inline struct next failed(int error)
{
	int is_want = error == ENOMEM || error == ENOBUFS || error == EMFILE || error == ENFILE || error == ENOSPC;
	return end(is_want ? END_NO_RESOURCES : END_RESET);
}

static inline int is_undecided(enum flow_state state)
{
	return state <= FLOW_UNREACHABLE;
}

static inline int is_resolving(enum flow_state state)
{
	return state == FLOW_EARLY_RESOLVING || state == FLOW_RESOLVING;
}

static inline int is_dialling(enum flow_state state)
{
	return state == FLOW_EARLY_DIALLING || state == FLOW_DIALLING;
}

static inline int is_connected(enum flow_state state)
{
	return state == FLOW_GREETING || state == FLOW_FOLLOWING || state == FLOW_UNFRAMED || state == FLOW_SPLICING;
}

static inline int is_over(const struct flow *flow)
{
	return flow->state >= FLOW_SERVED;
}

/* The flow has more to move, after the others of its thread have had their turn. */
static inline void serve_later(struct flows *flows, struct flow *flow)
{
	if (flow->is_ready)
		return;
	flow->is_ready = 1;
	flow->next_ready = flows->ready;
	flows->ready = flow;
}

/* By the state that they are for. */
struct next step_opening(struct flows *flows, struct flow *flow, const void *table);
struct next step_unreachable(struct flows *flows, struct flow *flow, const void *table);
struct next step_find(struct flows *flows, struct flow *flow, const void *table);
struct next step_dial(struct flows *flows, struct flow *flow, const void *table);
struct next step_find_early(struct flows *flows, struct flow *flow, const void *table);
struct next step_dial_early(struct flows *flows, struct flow *flow, const void *table);
struct next step_greet(struct flows *flows, struct flow *flow, const void *table);
struct next step_splice(struct flows *flows, struct flow *flow, const void *table);
struct next step_follow(struct flows *flows, struct flow *flow, const void *table);

/* The policy has changed since the flow was decided. */
struct next judge_again(struct flow *flow, const void *table);

/* Each byte of a side wakes the thread again. If that can't be, the flow is broken. */
void hear_every_byte(struct flow *flow, struct side *side);

/* The followed request's response has ended, or none will come. */
void end_exchange(const struct flows *flows, struct flow *flow);

#endif
