/* SPDX-License-Identifier: Apache-2.0
 *
 * The steps of a flow that is being connected: they run connect. Owns nothing; called by flow.c.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <string.h>

#include "events.h"
#include "steps.h"

#define ASK_AGAIN 0.05 /* seconds until a question that found no room is posted again */

/* Returns 1 if the peer has closed its half: no bytes will follow those in the receive buffer. */
static int peer_has_closed(int fd)
{
	struct pollfd state = {.fd = fd, .events = POLLRDHUP};
	return poll(&state, 1, 0) > 0;
}

/* Returns the next state of a flow whose server couldn't be connected. Python answers an HTTP client, which has
 * received nothing yet. */
static struct next unconnected(struct flow *flow, const void *table, enum end_cause cause)
{
	connect_cancel(&flow->connecting);
	if (!is_undecided((enum flow_state)flow->state))
		return (struct next){flow->goal == FLOW_SPLICING ? FLOW_ENDED : FLOW_SERVED, cause};
	if (subject_may_be_handled(&flow->subject, table))
		return (struct next){FLOW_UNREACHABLE, cause};
	return end(cause);
}

struct next step_find(struct flows *flows, struct flow *flow, const void *table)
{
	struct connect_place place = {flows->epoll, flows->netlink, (uint64_t)(uintptr_t)flow | COOKIE_UPSTREAM, flows->ports,
	                              &flows->nudges};
	enum end_cause cause;
	struct relay_event event;
	char question[HOST_MAX + 1];
	switch (connect_find(&flow->connecting, &place, flow->container, &flow->subject, table, flows->now, question, &cause)) {
	case FOUND_ADDRESSES:
		return go(flow->state == FLOW_RESOLVING ? FLOW_DIALLING : FLOW_EARLY_DIALLING);
	case FOUND_QUESTION:
		event = (struct relay_event){.kind = EVENT_RESOLVE, .fd = -1, .flow = flow->number, .container = flow->container->id};
		memcpy(event.host, question, sizeof event.host);
		if (relay_post(flows->relay, &event) == 0)
			return stay(flow);
		connect_not_asked(flow->container, question);
		flow->look_again = flows->now + ASK_AGAIN;
		return stay(flow);
	case FOUND_NOT_YET:
		if (flows->now - flow->dial_began < flows->options->dial_deadline)
			return stay(flow);
		return unconnected(flow, table, END_NAME_UNKNOWN);
	case FOUND_NO_MEMORY:
		return end(END_NO_RESOURCES);
	case FOUND_NONE:
		break;
	}
	return unconnected(flow, table, cause);
}

struct next step_dial(struct flows *flows, struct flow *flow, const void *table)
{
	enum end_cause cause;
	switch (connect_step(&flow->connecting, flows->now, &cause)) {
	case DIAL_CONNECTED:
		flow->upstream.fd = connect_take(&flow->connecting, &flow->subject.reached, &flow->port);
		if (flow->upstream.has_closed) /* epoll's event may have been for another attempt: they share a cookie */
			flow->upstream.has_closed = (uint8_t)peer_has_closed(flow->upstream.fd);
		flow->last_byte = flow->steps.connected = flows->now;
		COUNT(flows, flow, spliced, 1);
		return go(flow->state == FLOW_DIALLING ? (enum flow_state)flow->goal : FLOW_GREETING);
	case DIAL_WAIT:
		if (flows->now - flow->dial_began < flows->options->dial_deadline)
			return stay(flow);
		return unconnected(flow, table, END_DIAL_FAILED);
	case DIAL_FAILED:
		break;
	}
	return unconnected(flow, table, cause);
}
