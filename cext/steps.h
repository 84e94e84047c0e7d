/* The steps of a flow: each runs a phase on the flow's sockets, for one state, and returns the next state.
 *
 * A step never ends a flow, hands it off or calls the loop. Called by flow.c.
 */
#ifndef PYINTERCEPTOR_STEPS_H
#define PYINTERCEPTOR_STEPS_H

#include <errno.h>

#include "flow.h"

#define COUNT(flows, flow, what, by) \
	(atomic_fetch_add(&(flow)->container->counters.what, by), atomic_fetch_add(&(flows)->totals->what, by))

/* The result of a step. The same state again: the flow waits for an event. */
struct next {
	enum flow_state state;
	enum end_cause cause; /* ENDED: the cause; SERVED: the failure that Python must answer for; else END_DONE */
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

/* Ends the flow after a failed call on a socket: END_NO_RESOURCES if this host is short of memory or descriptors,
 * else END_RESET. */
static inline struct next failed(int error)
{
	int is_want = error == ENOMEM || error == ENOBUFS || error == EMFILE || error == ENFILE || error == ENOSPC;
	return end(is_want ? END_NO_RESOURCES : END_RESET);
}

static inline int is_over(const struct flow *flow)
{
	return flow->state >= FLOW_SERVED;
}

/* Queues the flow for another step, after the thread's other flows have had their turn. */
static inline void serve_later(struct flows *flows, struct flow *flow)
{
	if (flow->is_ready)
		return;
	flow->is_ready = 1;
	flow->next_ready = flows->ready;
	flows->ready = flow;
}

/* One step for each state; flow.c maps them. */
struct next step_opening(struct flows *flows, struct flow *flow, const void *table);
struct next step_unreachable(struct flows *flows, struct flow *flow, const void *table);
struct next step_find(struct flows *flows, struct flow *flow, const void *table);
struct next step_dial(struct flows *flows, struct flow *flow, const void *table);
struct next step_find_early(struct flows *flows, struct flow *flow, const void *table);
struct next step_dial_early(struct flows *flows, struct flow *flow, const void *table);
struct next step_greet(struct flows *flows, struct flow *flow, const void *table);
struct next step_splice(struct flows *flows, struct flow *flow, const void *table);
struct next step_follow(struct flows *flows, struct flow *flow, const void *table);

/* Allows the client's bytes of a flow that passes unframed: all of them, or none before step_splice() has watched them for
 * requests to a proxy. Those are watched for beside any rule, in bytes that could be HTTP. */
void allow_unframed(struct flow *flow, const void *table);

/* Decides the flow anew, after the policy has changed. `table` may be NULL: then the flow is refused. */
struct next judge_again(struct flow *flow, const void *table);

/* Makes the record of the followed request, after its response has ended or when there will be none. */
void end_exchange(const struct flows *flows, struct flow *flow);

/* Notes the first byte of an answer, if bytes have moved since the count was `before`. */
void note_moved(const struct flows *flows, struct flow *flow, uint64_t before);

/* Begins the record of a followed request, if anybody subscribes to such records. */
void begin_exchange(const struct flows *flows, struct flow *flow, const struct frame *frame);

#endif
