/* SPDX-License-Identifier: Apache-2.0
 *
 * The steps of a flow that isn't decided yet: they run judge. Owns nothing; called by flow.c.
 */
#include <errno.h>

#include "peek.h"
#include "steps.h"

/* Returns 1 if the flow may go on to the server that was dialled before its client spoke. Bytes after a server's
 * greeting say no host. */
static int suits_greeter(struct flow *flow, const void *table)
{
	uint32_t protocol = flow->subject.protocol;
	return (protocol != PROTOCOL_HTTP && protocol != PROTOCOL_TLS) ||
	       connect_suits(flow->container, &flow->subject, table, NULL);
}

/* Leaves the server that was dialled before the client spoke, for the one that its host leads to. */
static struct next leave_greeter(struct flows *flows, struct flow *flow)
{
	if (flow->received.moved || flow->received.has_ended)
		return end(END_REFUSED);
	set_linger(flow->upstream.fd, 0);
	close_watched(flows->epoll, flow->upstream.fd);
	flow->upstream = (struct side){.fd = -1};
	flow->subject.reached = (struct endpoint){0};
	flow->dial_began = flows->now;
	COUNT(flows, flow, spliced, (uint64_t)-1); /* the next one counts instead */
	return go(FLOW_RESOLVING);
}

/* Returns the next state of a flow that was decided to pass: to its addresses, or to `goal` if a server is
 * connected. */
static struct next decided(struct flows *flows, struct flow *flow, const void *table, enum flow_state goal)
{
	flow->steps.judged = flows->now;
	flow->goal = (uint8_t)goal;
	if (flow->state == FLOW_GREETING)
		return suits_greeter(flow, table) ? go(goal) : leave_greeter(flows, flow);
	if (flow->state == FLOW_UNREACHABLE)
		return (struct next){goal == FLOW_SPLICING ? FLOW_ENDED : FLOW_SERVED, (enum end_cause)flow->cause};
	return go(FLOW_RESOLVING);
}

static struct next judge_client(struct flows *flows, struct flow *flow, const void *table)
{
	ssize_t got = peek(flows, &flow->client, OPENING_MAX);
	if (got == -1)
		return stay(flow);
	if (got < 0)
		return failed(errno);
	if (!flow->first_byte)
		flow->first_byte = flows->now;
	struct first_bytes look = {.bytes = flows->workspace->buffer, .length = (uint32_t)got,
	                           .waited = flows->now - flow->first_byte, .is_end = got == 0 || flow->client.has_closed,
	                           .has_greeted = flow->received.moved > 0, .is_unreachable = flow->state == FLOW_UNREACHABLE};
	enum judged judged = judge(&flow->subject, &flow->opening, table, flows->options, &look);
	flow->protocol = (uint8_t)look.protocol;
	if (judged != JUDGED_MORE)
		hear_every_byte(flow, &flow->client);
	switch (judged) {
	case JUDGED_MORE:
		look_later(flows, flow, &flow->client, got);
		return stay(flow);
	case JUDGED_KEEP:
		return flow->state == FLOW_OPENING ? go(FLOW_EARLY_RESOLVING) : stay(flow);
	case JUDGED_FOLLOW:
		flow->sent.allowed = follow_begin(&flow->follow, &look.first);
		begin_exchange(flows, flow, &look.first);
		flow->received.allowed = 0;
		looked(&flow->client, got, flow->sent.allowed);
		return decided(flows, flow, table, FLOW_FOLLOWING);
	case JUDGED_UNFRAMED:
	case JUDGED_SPLICE:
		flow->received.allowed = ALLOW_ALL;
		allow_unframed(flow, table);
		looked(&flow->client, got, flow->sent.allowed);
		return decided(flows, flow, table, judged == JUDGED_SPLICE ? FLOW_SPLICING : FLOW_UNFRAMED);
	case JUDGED_SERVE:
		return (struct next){FLOW_SERVED, flow->state == FLOW_UNREACHABLE ? (enum end_cause)flow->cause : END_DONE};
	case JUDGED_LATE:
		return end(END_OPENING_DEADLINE);
	case JUDGED_NO_MEMORY:
		return end(END_NO_RESOURCES);
	case JUDGED_REFUSE:
		break;
	}
	return end(END_REFUSED);
}

/* Returns 1 if a silent client's server may be dialled. On a port whose clients speak first, or for a host with a rule,
 * the client has sniff_wait to speak. Otherwise the server may speak first, so it is dialled at once. */
static int is_silent_for_long(const struct flows *flows, const struct flow *flow, const void *table)
{
	return (!policy_waits(table, flow->subject.to.port) && !subject_is_ruled(&flow->subject, table)) ||
	       flows->now - flow->steps.accepted >= flows->options->sniff_wait;
}

static struct next open_silently(struct flows *flows, struct flow *flow, const void *table)
{
	if (subject_is_streamed(&flow->subject, table))
		return (struct next){FLOW_SERVED, END_DONE};
	if (is_silent_for_long(flows, flow, table) && subject_reaches_silently(&flow->subject, table))
		return go(FLOW_EARLY_RESOLVING);
	if (flows->now - flow->steps.accepted >= flows->options->opening_deadline)
		return end(END_OPENING_DEADLINE);
	return stay(flow);
}

struct next step_opening(struct flows *flows, struct flow *flow, const void *table)
{
	struct next next = judge_client(flows, flow, table);
	if (next.state == FLOW_OPENING && !flow->first_byte)
		next = open_silently(flows, flow, table);
	if (next.state == FLOW_OPENING) { /* the policy keeps the flow from an attempt that an earlier one began */
		connect_cancel(&flow->connecting);
		flow->dial_began = 0;
	}
	flow->connecting.has_asked = 0;
	return next;
}

struct next step_unreachable(struct flows *flows, struct flow *flow, const void *table)
{
	struct next next = judge_client(flows, flow, table);
	int is_silent = next.state == FLOW_UNREACHABLE && !flow->first_byte;
	if (is_silent && flows->now - flow->steps.accepted >= flows->options->sniff_wait)
		return end((enum end_cause)flow->cause);
	return next;
}

/* Moves the server's bytes, then judges the client's again: bytes held back until the server has spoken may pass
 * now. */
struct next step_greet(struct flows *flows, struct flow *flow, const void *table)
{
	struct next next = judge_client(flows, flow, table);
	if (next.state != FLOW_GREETING)
		return next;
	uint64_t before = flow->received.moved;
	enum moved received = move(flows->workspace, flow->container, flow->upstream.fd, flow->client.fd, &flow->received);
	note_moved(flows, flow, flow->sent.moved + before);
	if (received == MOVED_BROKEN)
		return failed(flow->received.error);
	if (received == MOVED_MORE)
		serve_later(flows, flow);
	if (flow->received.moved == before || !flow->first_byte)
		return next;
	flow->client.is_readable = 1;
	return judge_client(flows, flow, table);
}

struct next step_find_early(struct flows *flows, struct flow *flow, const void *table)
{
	struct next next = judge_client(flows, flow, table);
	if (next.state != (enum flow_state)flow->state)
		return next;
	subject_decide(&flow->subject, table, PROTOCOL_NONE, flow->subject.name);
	return step_find(flows, flow, table);
}

struct next step_dial_early(struct flows *flows, struct flow *flow, const void *table)
{
	struct next next = judge_client(flows, flow, table);
	return next.state == (enum flow_state)flow->state ? step_dial(flows, flow, table) : next;
}
