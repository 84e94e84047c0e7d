/* SPDX-License-Identifier: Apache-2.0
 *
 * A flow's life between accept and end: service, deadlines, handoff. Called by the flow's thread alone.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "flow.h"

#define ROUNDS_MAX 64 /* messages of one followed flow, before the others of its thread have their turn */

/* ---- ends ---- */

void set_linger(int fd, int is_reset)
{
	struct linger linger = {is_reset, 0};
	if (fd >= 0)
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
}

/* The peer will send nothing after what is here to be read. */
int peer_has_closed(int fd)
{
	struct pollfd state = {.fd = fd, .events = POLLRDHUP};
	return poll(&state, 1, 0) > 0;
}

/* The socket has an error that nobody has read yet. */
int is_failed(int fd)
{
	struct pollfd state = {.fd = fd};
	return poll(&state, 1, 0) > 0 && (state.revents & POLLERR);
}

struct relay_event event_of(const struct flow *flow, enum event_kind kind)
{
	struct relay_event event = {.kind = kind, .fd = -1, .flow = flow->number, .container = flow->container->id,
	                            .protocol = flow->protocol, .decision = flow->decision, .cause = flow->cause,
	                            .client = flow->from, .destination = flow->to, .is_synthetic = flow->is_synthetic};
	const char *host = flow->host ? flow->host : flow->name;
	if (host)
		strncpy(event.host, host, HOST_MAX);
	return event;
}

void flow_decided(struct flow *flow)
{
	if (flow->is_opening)
		atomic_fetch_sub(&flow->container->openings, 1);
	flow->is_opening = 0;
}

void flow_enlist(struct flow *flow, struct flow **list)
{
	flow->next = *list;
	flow->link = list;
	if (flow->next)
		flow->next->link = &flow->next;
	*list = flow;
}

void flow_delist(struct flow *flow)
{
	*flow->link = flow->next;
	if (flow->next)
		flow->next->link = flow->link;
}

/* Takes the flow off its thread. Its memory stays until the thread's turn ends: epoll may have named it twice. */
static void retire(struct thread *thread, struct flow *flow)
{
	flow_decided(flow);
	if (flow->is_synthetic)
		container_release_name(flow->container, flow->to.address);
	direction_free(thread, flow->container, &flow->sent);
	direction_free(thread, flow->container, &flow->received);
	dial_cancel(flow->dial);
	flow->dial = NULL;
	close_watched(thread->epoll, flow->client);
	close_watched(thread->epoll, flow->upstream);
	flow->client = flow->upstream = -1;
	COUNT(flow, sent, flow->sent.moved);
	COUNT(flow, received, flow->received.moved);
	COUNT(flow, flows, (uint64_t)-1);
	flow_delist(flow);
	flow->stage = STAGE_DEAD;
	flow->next = thread->dead;
	thread->dead = flow;
}

static int is_refusal(enum end_cause cause)
{
	return cause == END_REFUSED || cause == END_DIAL_GUARD || cause == END_BUDGET || cause == END_OPENING_DEADLINE;
}

static void record_end(struct thread *thread, const struct flow *flow)
{
	enum record_kind kind = is_refusal(flow->cause) ? RECORD_REFUSAL : RECORD_FLOW;
	const char *host = flow->host ? flow->host : flow->name;
	if (!record_is_wanted(thread->relay, kind))
		return;
	struct relay_record record = {.kind = kind, .container = flow->container->id, .flow = flow->number,
	                              .protocol = flow->protocol, .cause = flow->cause, .decision = flow->decision,
	                              .client = flow->from, .destination = flow->to, .sent = flow->sent.moved,
	                              .received = flow->received.moved, .began = flow->began, .ended = thread->now};
	if (host)
		strncpy(record.host, host, HOST_MAX);
	record_make(thread->relay, &record);
}

void flow_end(struct thread *thread, struct flow *flow, enum end_cause cause)
{
	flow->cause = (uint8_t)cause;
	set_linger(flow->client, cause != END_DONE);
	set_linger(flow->upstream, cause != END_DONE);
	if (cause == END_RESET || cause == END_DETACHED)
		COUNT(flow, reset, 1);
	else if (cause == END_BUDGET)
		COUNT(flow, over_budget, 1);
	else if (cause == END_REFUSED || cause == END_OPENING_DEADLINE)
		COUNT(flow, refused, 1);
	else if (cause == END_DIAL_FAILED || cause == END_DIAL_GUARD || cause == END_NAME_UNKNOWN)
		COUNT(flow, failed_dials, 1);
	else if (cause == END_IDLE_DEADLINE)
		COUNT(flow, timed_out, 1);
	else if (cause == END_NO_RESOURCES)
		COUNT(flow, no_resources, 1);
	record_end(thread, flow);
	retire(thread, flow);
}

/* Gives the client's socket to Python; what it hasn't read yet, Python reads. */
void hand_off(struct thread *thread, struct flow *flow)
{
	struct container *container = flow->container;
	if (!flow->is_followed && (flow->sent.moved || flow->received.moved)) {
		flow_end(thread, flow, END_REFUSED); /* the client has seen a server's words that are no response */
		return;
	}
	if (atomic_fetch_add(&container->handoffs, 1) >= container->budget.handoffs) {
		atomic_fetch_sub(&container->handoffs, 1);
		flow_end(thread, flow, END_BUDGET);
		return;
	}
	struct relay_event event = event_of(flow, EVENT_HANDOFF);
	event.fd = flow->client;
	epoll_ctl(thread->epoll, EPOLL_CTL_DEL, flow->client, NULL);
	set_linger(flow->upstream, 0);
	if (relay_post(thread->relay, &event) < 0) {
		atomic_fetch_sub(&container->handoffs, 1);
		flow_end(thread, flow, END_NO_RESOURCES);
		return;
	}
	COUNT(flow, handled, 1);
	flow->client = -1;
	flow->is_synthetic = 0; /* Python holds the name now */
	flow->sent.moved = flow->received.moved = 0; /* Python counts by the socket, which has counted them too */
	retire(thread, flow);
}

/* ---- moving ---- */

static void serve_later(struct thread *thread, struct flow *flow)
{
	if (flow->is_ready)
		return;
	flow->is_ready = 1;
	flow->next_ready = thread->ready;
	thread->ready = flow;
}

static void move_both(struct thread *thread, struct flow *flow)
{
	for (int round = 0;; round++) {
		uint64_t before = flow->sent.moved + flow->received.moved;
		enum moved sent = MOVED_IDLE, received;
		if (flow->is_judged)
			sent = move(thread, flow->container, flow->client, flow->upstream, &flow->sent);
		received = move(thread, flow->container, flow->upstream, flow->client, &flow->received);
		if (flow->sent.moved + flow->received.moved != before)
			flow->last_byte = thread->now;
		if (sent == MOVED_BROKEN || received == MOVED_BROKEN) {
			flow_end(thread, flow, END_RESET);
			return;
		}
		/* What a client has sent after the last request of its connection goes nowhere, and must not hold the flow. */
		int is_over = flow->is_followed && flow->received.is_shut && flow->client_has_closed;
		if (is_over || (flow->sent.is_shut && flow->received.is_shut)) {
			flow_end(thread, flow, END_DONE);
			return;
		}
		if (sent == MOVED_MORE || received == MOVED_MORE || round == ROUNDS_MAX) {
			serve_later(thread, flow);
			return;
		}
		if (!flow->is_followed || !follow(thread, flow))
			return;
	}
}

void flow_service(struct thread *thread, struct flow *flow, int is_broken)
{
	if (is_broken) {
		/* What was said before the reset is heard: a server's "413" to an upload that it didn't read. */
		if (flow->stage == STAGE_MOVING)
			move_both(thread, flow);
		if (flow->stage != STAGE_DEAD)
			flow_end(thread, flow, END_RESET);
		return;
	}
	if (!flow->is_judged && flow->stage != STAGE_DEAD)
		judge(thread, flow);
	if (flow->stage == STAGE_DIALLING)
		step_dial(thread, flow);
	if (flow->stage == STAGE_MOVING)
		move_both(thread, flow);
	/* The client's words may have been kept back until the server says its own. */
	if (flow->stage == STAGE_MOVING && !flow->is_judged && flow->first_byte && flow->received.moved) {
		judge(thread, flow);
		if (flow->stage == STAGE_MOVING && flow->is_judged)
			move_both(thread, flow);
	}
}

/* ---- deadlines ---- */

static void tick_opening(struct thread *thread, struct flow *flow)
{
	const struct relay_options *options = &thread->relay->options;
	double waited = thread->now - flow->began;
	if (flow->first_byte) {
		if (thread->now - flow->first_byte > options->sniff_wait)
			judge(thread, flow); /* it may have waited long enough */
	} else if (flow->stage == STAGE_OPENING && flow->has_failed && waited > options->sniff_wait) {
		flow_end(thread, flow, flow->cause);
	} else if (flow->stage == STAGE_OPENING && waited > options->sniff_wait && may_reach_silently(flow)) {
		begin_dial(thread, flow); /* perhaps the server speaks first; the client's bytes are judged when they come */
	} else if (flow->stage == STAGE_OPENING && waited > options->opening_deadline) {
		flow_end(thread, flow, END_OPENING_DEADLINE);
	}
}

static void tick_moving(struct thread *thread, struct flow *flow)
{
	const struct relay_options *options = &thread->relay->options;
	double idle = thread->now - flow->last_byte;
	int is_half_closed = flow->sent.has_ended || flow->received.has_ended;
	if (idle > options->idle_deadline || (is_half_closed && idle > options->linger_deadline))
		flow_end(thread, flow, END_IDLE_DEADLINE);
}

void flow_tick(struct thread *thread, struct flow *flow)
{
	if (atomic_load(&flow->container->is_gone)) {
		flow_end(thread, flow, END_DETACHED);
		return;
	}
	if (!flow->is_judged)
		tick_opening(thread, flow);
	double waited = thread->now - flow->stage_began;
	if (flow->stage == STAGE_RESOLVING && waited > thread->relay->options.dial_deadline)
		dial_failed(thread, flow, END_NAME_UNKNOWN);
	else if (flow->stage == STAGE_RESOLVING)
		begin_dial(thread, flow);
	else if (flow->stage == STAGE_DIALLING && waited > thread->relay->options.dial_deadline)
		dial_failed(thread, flow, END_DIAL_FAILED);
	else if (flow->stage == STAGE_DIALLING)
		flow_service(thread, flow, 0);
	else if (flow->stage == STAGE_MOVING)
		tick_moving(thread, flow);
}
