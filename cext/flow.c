/* SPDX-License-Identifier: Apache-2.0
 *
 * A flow's states, the loop over its phases, its deadlines and its ends.
 */
#define _GNU_SOURCE
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "abi.h"
#include "events.h"
#include "exchange.h"
#include "flow.h"
#include "records.h"

#define ROUNDS_MAX 64    /* messages of one followed flow, before the others of its thread have their turn */
#define LOOKS_MAX 4      /* at an incomplete head, before single bytes stop waking us */
#define QUIET_BYTES 1024 /* wake us then, */
#define QUIET_TIME 0.05  /* or so many seconds */
#define ROUNDING 1e-4    /* seconds */

/* ---- states ---- */

#define TO(state) (1u << FLOW_##state)
#define TO_END (TO(SERVED) | TO(ENDED))

/* The legal transitions. Whatever isn't connected yet may go back to OPENING: a new policy judges it again. */
static const uint32_t LEGAL[FLOW_STATES] = {
	[FLOW_OPENING] = TO(EARLY_RESOLVING) | TO(RESOLVING) | TO_END,
	[FLOW_EARLY_RESOLVING] = TO(OPENING) | TO(EARLY_DIALLING) | TO(UNREACHABLE) | TO(RESOLVING) | TO_END,
	[FLOW_EARLY_DIALLING] = TO(OPENING) | TO(GREETING) | TO(UNREACHABLE) | TO(RESOLVING) | TO_END,
	[FLOW_GREETING] = TO(FOLLOWING) | TO(UNFRAMED) | TO(SPLICING) | TO_END,
	[FLOW_UNREACHABLE] = TO(OPENING) | TO_END,
	[FLOW_RESOLVING] = TO(OPENING) | TO(DIALLING) | TO_END,
	[FLOW_DIALLING] = TO(OPENING) | TO(FOLLOWING) | TO(UNFRAMED) | TO(SPLICING) | TO_END,
	[FLOW_FOLLOWING] = TO(UNFRAMED) | TO(SPLICING) | TO_END,
	[FLOW_UNFRAMED] = TO(ENDED),
	[FLOW_SPLICING] = TO(ENDED),
};

/* What comes next: the state that a flow is in when its phase returns; the same one waits. */
struct next {
	enum flow_state state;
	enum end_cause cause; /* ENDED: why; SERVED: what failed before */
};

static struct next go(enum flow_state state)
{
	return (struct next){state, END_DONE};
}

static struct next stay(const struct flow *flow)
{
	return go((enum flow_state)flow->state);
}

static struct next end(enum end_cause cause)
{
	return (struct next){FLOW_ENDED, cause};
}

/* A call on a socket has failed: for want of something here, or because its peer did. */
static struct next failed(int error)
{
	int is_want = error == ENOMEM || error == ENOBUFS || error == EMFILE || error == ENFILE || error == ENOSPC;
	return end(is_want ? END_NO_RESOURCES : END_RESET);
}

static int is_undecided(enum flow_state state)
{
	return state <= FLOW_UNREACHABLE;
}

static int is_resolving(enum flow_state state)
{
	return state == FLOW_EARLY_RESOLVING || state == FLOW_RESOLVING;
}

static int is_dialling(enum flow_state state)
{
	return state == FLOW_EARLY_DIALLING || state == FLOW_DIALLING;
}

static int is_connected(enum flow_state state)
{
	return state == FLOW_GREETING || state == FLOW_FOLLOWING || state == FLOW_UNFRAMED || state == FLOW_SPLICING;
}

static int is_over(const struct flow *flow)
{
	return flow->state >= FLOW_SERVED;
}

/* ---- lists and counters ---- */

#define COUNT(flows, flow, what, by) \
	(atomic_fetch_add(&(flow)->container->counters.what, by), atomic_fetch_add(&(flows)->totals->what, by))

static void enlist(struct flow *flow, struct flow **list)
{
	flow->next = *list;
	flow->link = list;
	if (flow->next)
		flow->next->link = &flow->next;
	*list = flow;
}

static void delist(struct flow *flow)
{
	*flow->link = flow->next;
	if (flow->next)
		flow->next->link = flow->link;
}

static void serve_later(struct flows *flows, struct flow *flow)
{
	if (flow->is_ready)
		return;
	flow->is_ready = 1;
	flow->next_ready = flows->ready;
	flows->ready = flow;
}

/* ---- ends ---- */

void set_linger(int fd, int is_reset)
{
	struct linger linger = {is_reset, 0};
	if (fd >= 0)
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
}

/* The peer will send nothing after what is here to be read. */
static int peer_has_closed(int fd)
{
	struct pollfd state = {.fd = fd, .events = POLLRDHUP};
	return poll(&state, 1, 0) > 0;
}

/* The socket has an error that nobody has read yet. */
static int is_failed(int fd)
{
	struct pollfd state = {.fd = fd};
	return poll(&state, 1, 0) > 0 && (state.revents & POLLERR);
}

static struct relay_event event_of(const struct flow *flow, enum event_kind kind)
{
	const struct subject *subject = &flow->subject;
	struct relay_event event = {.kind = kind, .fd = -1, .flow = flow->number, .container = flow->container->id,
	                            .protocol = flow->protocol, .decision = subject->decision, .cause = flow->cause,
	                            .client = flow->from, .destination = subject->to,
	                            .is_synthetic = subject->is_synthetic};
	const char *host = subject->host ? subject->host : subject->name;
	if (host)
		strncpy(event.host, host, HOST_MAX);
	return event;
}

static void close_side(const struct flows *flows, struct side *side)
{
	close_watched(flows->epoll, side->fd);
	side->fd = -1;
}

/* Gives back all that the flow holds. Its memory stays until the thread's turn ends: epoll may have named it twice. */
static void retire(struct flows *flows, struct flow *flow)
{
	if (flow->subject.is_synthetic)
		container_release_name(flow->container, flow->subject.to.address);
	direction_free(flows->workspace, flow->container, &flow->sent);
	direction_free(flows->workspace, flow->container, &flow->received);
	connect_cancel(&flow->connecting);
	exchange_drop(flow->exchange); /* Python records a request that it was given */
	flow->exchange = NULL;
	close_side(flows, &flow->client);
	close_side(flows, &flow->upstream);
	timer_clear(&flows->timers, &flow->timer);
	COUNT(flows, flow, sent, flow->sent.moved);
	COUNT(flows, flow, received, flow->received.moved);
	COUNT(flows, flow, flows, (uint64_t)-1);
	delist(flow);
	flow->next = flows->dead;
	flows->dead = flow;
}

static void count_end(struct flows *flows, struct flow *flow)
{
	switch ((enum end_cause)flow->cause) {
	case END_RESET:
	case END_DETACHED:
		COUNT(flows, flow, reset, 1);
		break;
	case END_BUDGET:
		COUNT(flows, flow, over_budget, 1);
		break;
	case END_REFUSED:
	case END_OPENING_DEADLINE:
		COUNT(flows, flow, refused, 1);
		break;
	case END_DIAL_FAILED:
	case END_DIAL_GUARD:
	case END_NAME_UNKNOWN:
		COUNT(flows, flow, failed_dials, 1);
		break;
	case END_IDLE_DEADLINE:
		COUNT(flows, flow, timed_out, 1);
		break;
	case END_NO_RESOURCES:
		COUNT(flows, flow, no_resources, 1);
		break;
	case END_DONE:
		break;
	}
}

void count_refused_connection(struct flows *flows, struct container *container, enum end_cause cause)
{
	struct flow flow = {.container = container, .cause = (uint8_t)cause};
	count_end(flows, &flow);
}

static int is_refusal(enum end_cause cause)
{
	return cause == END_REFUSED || cause == END_DIAL_GUARD || cause == END_BUDGET || cause == END_OPENING_DEADLINE;
}

static void record_end(const struct flows *flows, const struct flow *flow)
{
	const struct subject *subject = &flow->subject;
	enum record_kind kind = is_refusal((enum end_cause)flow->cause) ? RECORD_REFUSAL : RECORD_FLOW;
	const char *host = subject->host ? subject->host : subject->name;
	if (!record_is_wanted(flows->relay, kind))
		return;
	struct relay_record record = {.kind = kind, .container = flow->container->id, .flow = flow->number,
	                              .protocol = flow->protocol, .cause = flow->cause, .decision = subject->decision,
	                              .client = flow->from, .destination = subject->to, .sent = flow->sent.moved,
	                              .received = flow->received.moved, .began = flow->steps.accepted,
	                              .judged = flow->steps.judged, .connected = flow->steps.connected,
	                              .answered = flow->steps.answered, .ended = flows->now};
	if (host)
		strncpy(record.host, host, HOST_MAX);
	record_make(flows->relay, &record);
}

/* ---- followed requests ---- */

static void begin_exchange(const struct flows *flows, struct flow *flow, const struct frame *frame)
{
	exchange_drop(flow->exchange); /* a request is judged again as long as its flow isn't connected */
	flow->exchange = NULL;
	if (!record_is_wanted(flows->relay, RECORD_REQUEST))
		return;
	struct relay_record record = {.container = flow->container->id, .flow = flow->number, .protocol = flow->protocol,
	                              .decision = flow->subject.decision, .client = flow->from, .destination = flow->subject.to,
	                              .sent = flow->sent.moved, .received = flow->received.moved, .began = flows->now,
	                              .judged = flows->now};
	flow->exchange = exchange_begin(&record, flows->workspace->buffer, frame);
}

static void end_exchange(const struct flows *flows, struct flow *flow)
{
	exchange_end(flow->exchange, flows->relay, flow->sent.moved, flow->received.moved, flows->now);
	flow->exchange = NULL;
}

static void finish(struct flows *flows, struct flow *flow)
{
	set_linger(flow->client.fd, flow->cause != END_DONE);
	set_linger(flow->upstream.fd, flow->cause != END_DONE);
	count_end(flows, flow);
	end_exchange(flows, flow);
	record_end(flows, flow);
	retire(flows, flow);
}

static void hear_every_byte(struct flow *flow, struct side *side);

/* Gives the client's socket to Python; what it hasn't read yet, Python reads. Returns why that can't be, or END_DONE. */
static enum end_cause hand_off(struct flows *flows, struct flow *flow)
{
	struct container *container = flow->container;
	hear_every_byte(flow, &flow->client);
	if (atomic_fetch_add(&container->handoffs, 1) >= container->budget.handoffs) {
		atomic_fetch_sub(&container->handoffs, 1);
		return END_BUDGET;
	}
	struct relay_event event = event_of(flow, EVENT_HANDOFF);
	event.fd = flow->client.fd;
	set_linger(flow->upstream.fd, 0);
	if (flow->is_broken || epoll_ctl(flows->epoll, EPOLL_CTL_DEL, flow->client.fd, NULL) < 0 ||
	    relay_post(flows->relay, &event) < 0) {
		atomic_fetch_sub(&container->handoffs, 1);
		return END_NO_RESOURCES;
	}
	COUNT(flows, flow, handled, 1);
	flow->client.fd = -1;
	flow->subject.is_synthetic = 0; /* Python holds the name now */
	flow->sent.moved = flow->received.moved = 0; /* Python counts by the socket, which has counted them too */
	return END_DONE;
}

/* ---- transitions ---- */

/* The client has seen a server's bytes that are no response: no handler may go on with its connection. */
static int has_begun_elsewhere(const struct flow *flow)
{
	return flow->state != FLOW_FOLLOWING && (flow->sent.moved || flow->received.moved);
}

/* An illegal transition is a fault of ours: it ends the flow. */
static struct next checked(const struct flow *flow, struct next next)
{
	int is_legal = (LEGAL[flow->state] >> next.state) & 1;
	assert(is_legal);
	if (!is_legal)
		return end(END_RESET);
	if (next.state == FLOW_SERVED && has_begun_elsewhere(flow))
		return end(END_REFUSED);
	return next;
}

static void relist(struct flow *flow, enum flow_state state)
{
	if (is_resolving(state) == is_resolving((enum flow_state)flow->state))
		return;
	delist(flow);
	enlist(flow, is_resolving(state) ? &flow->share->resolving : &flow->share->flows);
}

static void enter(struct flows *flows, struct flow *flow, struct next next)
{
	next = checked(flow, next);
	flow->cause = (uint8_t)next.cause;
	if (next.state == FLOW_SERVED && (flow->cause = (uint8_t)hand_off(flows, flow)) != END_DONE)
		next.state = FLOW_ENDED;
	if (is_undecided((enum flow_state)flow->state) && !is_undecided(next.state))
		atomic_fetch_sub(&flow->container->openings, 1);
	else if (!is_undecided((enum flow_state)flow->state) && is_undecided(next.state))
		atomic_fetch_add(&flow->container->openings, 1);
	if (flow->state == FLOW_OPENING)
		flow->dial_began = flows->now; /* resolving and dialling share one deadline */
	relist(flow, next.state);
	flow->state = (uint8_t)next.state;
	if (next.state == FLOW_ENDED)
		finish(flows, flow);
	else if (next.state == FLOW_SERVED)
		retire(flows, flow);
}

/* ---- looks at what comes next ---- */

/* Peeks. The count, 0 at the end, -1 where nothing new is there, -2 where the socket has failed: it tells its error once, and here
 * may be where. */
static ssize_t peek(const struct flows *flows, struct side *side, size_t most)
{
	if ((!side->is_readable || side->is_quiet) && !side->has_closed)
		return -1;
	ssize_t got = recv(side->fd, flows->workspace->buffer, most, MSG_PEEK);
	side->is_readable = got == (ssize_t)most;
	return got >= 0 ? got : errno == EAGAIN ? -1 : -2;
}

/* `got` bytes were looked at, of which `allowed` may pass: those behind them are there already. */
static void looked(struct side *side, ssize_t got, uint64_t allowed)
{
	side->is_readable |= allowed < (uint64_t)got;
}

static int set_low_water(const struct side *side, int bytes)
{
	return setsockopt(side->fd, SOL_SOCKET, SO_RCVLOWAT, &bytes, sizeof bytes);
}

static void hear_every_byte(struct flow *flow, struct side *side)
{
	if (side->looks > LOOKS_MAX && set_low_water(side, 1) < 0)
		flow->is_broken = 1; /* few bytes would never wake it */
	side->looks = side->is_quiet = 0;
}

/* A head isn't complete. One that comes in single bytes must not cost a look for each: after a few looks the next one comes after a
 * while, and until then only many bytes wake the thread. (Where single bytes have filled the receive buffer each wakes it all the same,
 * and so does setting the option: there is no look for that.) */
static void look_later(const struct flows *flows, struct flow *flow, struct side *side, ssize_t got)
{
	if (side->looks < LOOKS_MAX) {
		side->looks++;
		return;
	}
	side->looks = LOOKS_MAX + 1;
	int bytes = (int)got + QUIET_BYTES;
	side->is_quiet = set_low_water(side, bytes < HEAD_MAX ? bytes : HEAD_MAX) == 0;
	flow->look_again = flows->now + QUIET_TIME;
}

/* ---- phase: judge ---- */

/* A decided flow goes on: to its addresses, or with the server that it has. */
static struct next decided(struct flows *flows, struct flow *flow, enum flow_state goal)
{
	flow->steps.judged = flows->now;
	flow->goal = (uint8_t)goal;
	if (flow->state == FLOW_GREETING)
		return go(goal);
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
		return decided(flows, flow, FLOW_FOLLOWING);
	case JUDGED_UNFRAMED:
		return decided(flows, flow, FLOW_UNFRAMED);
	case JUDGED_SPLICE:
		return decided(flows, flow, FLOW_SPLICING);
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

/* Where the client can be expected to speak first, nothing is dialled before it has had sniff_wait to do so. Elsewhere the server
 * may speak first, and is dialled at once, unless a rule names the host. */
static int is_silent_for_long(const struct flows *flows, const struct flow *flow, const void *table)
{
	return (!policy_waits(table, flow->subject.to.port) && !subject_is_ruled(&flow->subject, table)) ||
	       flows->now - flow->steps.accepted >= flows->options->sniff_wait;
}

static struct next open_silently(struct flows *flows, struct flow *flow, const void *table)
{
	if (is_silent_for_long(flows, flow, table) && subject_reaches_silently(&flow->subject, table))
		return go(FLOW_EARLY_RESOLVING);
	if (flows->now - flow->steps.accepted >= flows->options->opening_deadline)
		return end(END_OPENING_DEADLINE);
	return stay(flow);
}

static struct next opening(struct flows *flows, struct flow *flow, const void *table)
{
	struct next next = judge_client(flows, flow, table);
	if (next.state == FLOW_OPENING && !flow->first_byte)
		next = open_silently(flows, flow, table);
	if (next.state == FLOW_OPENING)
		connect_cancel(&flow->connecting); /* a policy before this one had it dialled */
	flow->connecting.has_asked = 0;
	return next;
}

static struct next unreachable(struct flows *flows, struct flow *flow, const void *table)
{
	struct next next = judge_client(flows, flow, table);
	int is_silent = next.state == FLOW_UNREACHABLE && !flow->first_byte;
	if (is_silent && flows->now - flow->steps.accepted >= flows->options->sniff_wait)
		return end((enum end_cause)flow->cause);
	return next;
}

/* ---- phase: connect ---- */

/* No connection could be made. A plain HTTP client that has been sent nothing is answered by Python. */
static struct next unconnected(struct flow *flow, const void *table, enum end_cause cause)
{
	connect_cancel(&flow->connecting);
	if (!is_undecided((enum flow_state)flow->state))
		return (struct next){flow->goal == FLOW_SPLICING ? FLOW_ENDED : FLOW_SERVED, cause};
	if (subject_may_be_handled(&flow->subject, table))
		return (struct next){FLOW_UNREACHABLE, cause};
	return end(cause);
}

static struct next find(struct flows *flows, struct flow *flow, const void *table)
{
	struct connect_place place = {flows->epoll, flows->netlink, (uint64_t)(uintptr_t)flow | COOKIE_UPSTREAM};
	enum end_cause cause;
	struct relay_event event;
	char question[HOST_MAX + 1];
	switch (connect_find(&flow->connecting, &place, flow->container, &flow->subject, table, flows->now, question, &cause)) {
	case FOUND_ADDRESSES:
		return go(flow->state == FLOW_RESOLVING ? FLOW_DIALLING : FLOW_EARLY_DIALLING);
	case FOUND_QUESTION:
		event = event_of(flow, EVENT_RESOLVE);
		memcpy(event.host, question, sizeof event.host);
		if (relay_post(flows->relay, &event) == 0)
			return stay(flow);
		connect_not_asked(flow->container, question);
		flow->look_again = flows->now + QUIET_TIME;
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

static struct next dial(struct flows *flows, struct flow *flow, const void *table)
{
	enum end_cause cause;
	switch (connect_step(&flow->connecting, flows->now, &cause)) {
	case DIAL_CONNECTED:
		flow->upstream.fd = connect_take(&flow->connecting, &flow->subject.reached);
		if (flow->upstream.has_closed) /* or another attempt has */
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

static struct next find_early(struct flows *flows, struct flow *flow, const void *table)
{
	struct next next = judge_client(flows, flow, table);
	if (next.state != (enum flow_state)flow->state)
		return next;
	subject_decide(&flow->subject, table, PROTOCOL_NONE, flow->subject.name);
	return find(flows, flow, table);
}

static struct next dial_early(struct flows *flows, struct flow *flow, const void *table)
{
	struct next next = judge_client(flows, flow, table);
	return next.state == (enum flow_state)flow->state ? dial(flows, flow, table) : next;
}

/* ---- phase: move ---- */

static void note_moved(const struct flows *flows, struct flow *flow, uint64_t before)
{
	if (flow->sent.moved + flow->received.moved == before)
		return;
	flow->last_byte = flows->now;
	if (!flow->steps.answered && flow->received.moved)
		flow->steps.answered = flows->now;
}

/* The client's bytes may have been kept back until the server has spoken. */
static struct next greet(struct flows *flows, struct flow *flow, const void *table)
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

/* Moves both ways. MOVED_IDLE: nothing more can be moved now. */
static enum moved move_both(struct flows *flows, struct flow *flow)
{
	uint64_t before = flow->sent.moved + flow->received.moved;
	enum moved sent = move(flows->workspace, flow->container, flow->client.fd, flow->upstream.fd, &flow->sent);
	enum moved received = move(flows->workspace, flow->container, flow->upstream.fd, flow->client.fd, &flow->received);
	note_moved(flows, flow, before);
	if (sent == MOVED_BROKEN || received == MOVED_BROKEN)
		return MOVED_BROKEN;
	return sent == MOVED_MORE || received == MOVED_MORE ? MOVED_MORE : MOVED_IDLE;
}

static struct next splice_on(struct flows *flows, struct flow *flow, const void *table)
{
	(void)table;
	enum moved moved = move_both(flows, flow);
	if (moved == MOVED_BROKEN)
		return failed(flow->sent.error ? flow->sent.error : flow->received.error);
	if (flow->sent.is_shut && flow->received.is_shut)
		return end(END_DONE);
	if (moved == MOVED_MORE)
		serve_later(flows, flow);
	return stay(flow);
}

/* ---- phase: follow ---- */

/* From here on bytes pass unseen, both ways. */
static struct next pass_unseen(struct flow *flow, enum flow_state state)
{
	hear_every_byte(flow, &flow->client);
	hear_every_byte(flow, &flow->upstream);
	flow->sent.allowed = flow->received.allowed = ALLOW_ALL;
	return go(state);
}

/* A message whose end isn't known. Where no rule could decide another request differently, all may pass. */
static struct next unframed(struct flow *flow, const void *table, int is_request)
{
	if (!policy_differs(table))
		return pass_unseen(flow, FLOW_UNFRAMED);
	if (is_request)
		return end(END_RESET);
	follow_until_close(&flow->follow);
	flow->received.allowed = ALLOW_ALL;
	return stay(flow);
}

static struct next decide_request(struct flows *flows, struct flow *flow, const void *table, enum reading reading,
                                  const struct frame *frame)
{
	const char *host = frame->host_length ? frame->host : NULL;
	if (reading != READING_BAD && !subject_set_host(&flow->subject, host))
		return end(END_NO_RESOURCES);
	subject_decide(&flow->subject, table, PROTOCOL_HTTP, host);
	if (flow->subject.decision.verdict != VERDICT_SPLICE)
		return go(FLOW_SERVED);
	if (reading == READING_WHOLE && frame->is_plain) {
		flow->sent.allowed = follow_pass_request(&flow->follow, frame);
		begin_exchange(flows, flow, frame);
		return stay(flow);
	}
	return policy_differs(table) ? go(FLOW_SERVED) : pass_unseen(flow, FLOW_UNFRAMED);
}

static int wants_look(const struct direction *direction)
{
	return direction->allowed == 0 && !direction->has_ended && direction_is_empty(direction);
}

static struct next look_at_request(struct flows *flows, struct flow *flow, const void *table)
{
	enum reading reading;
	struct frame frame;
	ssize_t got = peek(flows, &flow->client, flow->follow.request == IN_CHUNKS ? BUFFER_SIZE : HEAD_MAX);
	if (got == -1)
		return stay(flow);
	if (got < 0)
		return failed(errno);
	flow->sent.has_ended = got == 0;
	if (got == 0)
		return stay(flow);
	enum followed followed = follow_request(&flow->follow, flows->workspace->buffer, (uint32_t)got, flow->client.has_closed,
	                                        &flow->sent.allowed, &reading, &frame);
	if (followed == FOLLOWED_MORE) {
		look_later(flows, flow, &flow->client, got);
		return stay(flow);
	}
	hear_every_byte(flow, &flow->client);
	struct next next = stay(flow);
	if (followed == FOLLOWED_UNFRAMED)
		next = unframed(flow, table, 1);
	else if (followed == FOLLOWED_REQUEST)
		next = decide_request(flows, flow, table, reading, &frame);
	looked(&flow->client, got, flow->sent.allowed);
	return next;
}

/* Nothing is asked now; only the client's end is looked for. */
static void look_for_end(struct flows *flows, struct flow *flow)
{
	if (flow->client.has_closed)
		flow->sent.has_ended = peek(flows, &flow->client, 1) == 0;
}

static struct next look_at_response(struct flows *flows, struct flow *flow, const void *table)
{
	ssize_t got = peek(flows, &flow->upstream, flow->follow.response == IN_CHUNKS ? BUFFER_SIZE : HEAD_MAX);
	if (got == -1)
		return stay(flow);
	if (got < 0)
		return failed(errno);
	flow->received.has_ended = got == 0;
	if (got == 0)
		return stay(flow);
	enum followed followed = follow_response(&flow->follow, flows->workspace->buffer, (uint32_t)got,
	                                         flow->upstream.has_closed, &flow->received.allowed);
	if (followed == FOLLOWED_MORE) {
		look_later(flows, flow, &flow->upstream, got);
		return stay(flow);
	}
	hear_every_byte(flow, &flow->upstream);
	if (flow->follow.status)
		exchange_answered(flow->exchange, flow->follow.status, flows->now);
	if (followed == FOLLOWED_SWITCHED)
		return pass_unseen(flow, FLOW_SPLICING);
	struct next next = followed == FOLLOWED_UNFRAMED ? unframed(flow, table, 0) : stay(flow);
	looked(&flow->upstream, got, flow->received.allowed);
	return next;
}

static struct next look_at_both(struct flows *flows, struct flow *flow, const void *table)
{
	struct next next = stay(flow);
	if (wants_look(&flow->received)) {
		follow_response_passed(&flow->follow);
		if (!flow->follow.is_awaited)
			end_exchange(flows, flow);
		next = look_at_response(flows, flow, table);
	}
	if (next.state != FLOW_FOLLOWING || !wants_look(&flow->sent))
		return next;
	follow_request_passed(&flow->follow);
	if (follow_expects_request(&flow->follow))
		return look_at_request(flows, flow, table);
	look_for_end(flows, flow);
	return next;
}

static struct next follow_on(struct flows *flows, struct flow *flow, const void *table)
{
	for (int round = 0; round < ROUNDS_MAX; round++) {
		enum moved moved = move_both(flows, flow);
		if (moved == MOVED_BROKEN)
			return failed(flow->sent.error ? flow->sent.error : flow->received.error);
		/* What a client has sent after the last request of its connection goes nowhere, and must not hold the flow. */
		if (flow->received.is_shut && (flow->sent.is_shut || flow->client.has_closed))
			return end(END_DONE);
		if (moved == MOVED_MORE)
			break;
		int is_sent_looked_at = wants_look(&flow->sent), is_received_looked_at = wants_look(&flow->received);
		struct next next = look_at_both(flows, flow, table);
		int may_move = (is_sent_looked_at && !wants_look(&flow->sent)) || (is_received_looked_at && !wants_look(&flow->received));
		if (next.state != FLOW_FOLLOWING || !may_move)
			return next;
	}
	serve_later(flows, flow);
	return stay(flow);
}

/* ---- a new policy ---- */

/* An open flow whose requests aren't seen. A handler can't take it over: it goes on where the policy would give it to one. */
static struct next judge_open(struct flow *flow, const void *table)
{
	struct subject *subject = &flow->subject;
	int was_blind = flow->state == FLOW_UNFRAMED || flow->protocol == PROTOCOL_HTTP2;
	if (was_blind && policy_differs(table))
		return end(END_REFUSED);
	subject_decide(subject, table, subject->protocol, subject->host);
	int is_refused = subject->decision.verdict == VERDICT_REFUSE && subject->decision.reason != REASON_NOT_HTTP;
	return is_refused ? end(END_REFUSED) : stay(flow);
}

/* The policy has changed since the flow was decided. A followed flow's exchange goes on, its next request is decided anew. */
static struct next judge_again(struct flow *flow, const void *table)
{
	if (!table)
		return end(END_REFUSED);
	switch ((enum flow_state)flow->state) {
	case FLOW_OPENING:
	case FLOW_EARLY_RESOLVING:
	case FLOW_EARLY_DIALLING:
	case FLOW_UNREACHABLE:
	case FLOW_RESOLVING:
	case FLOW_DIALLING:
		flow->client.is_readable |= flow->first_byte > 0;
		return go(FLOW_OPENING);
	case FLOW_GREETING:
		flow->client.is_readable |= flow->first_byte > 0;
		return subject_reaches_silently(&flow->subject, table) ? stay(flow) : end(END_REFUSED);
	case FLOW_UNFRAMED:
	case FLOW_SPLICING:
		return judge_open(flow, table);
	default:
		return stay(flow);
	}
}

/* ---- the loop ---- */

typedef struct next (*phase)(struct flows *, struct flow *, const void *table);

static const phase PHASES[FLOW_STATES] = {
	[FLOW_OPENING] = opening,
	[FLOW_EARLY_RESOLVING] = find_early,
	[FLOW_EARLY_DIALLING] = dial_early,
	[FLOW_GREETING] = greet,
	[FLOW_UNREACHABLE] = unreachable,
	[FLOW_RESOLVING] = find,
	[FLOW_DIALLING] = dial,
	[FLOW_FOLLOWING] = follow_on,
	[FLOW_UNFRAMED] = splice_on,
	[FLOW_SPLICING] = splice_on,
};

/* One phase, by the table of this moment. */
static struct next run_phase(struct flows *flows, struct flow *flow)
{
	const struct table *table = share_table(flow->share);
	if (flow->published != flow->share->published) {
		flow->published = flow->share->published;
		struct next next = judge_again(flow, table ? table->blob : NULL);
		if (next.state != (enum flow_state)flow->state)
			return next;
	}
	return table ? PHASES[flow->state](flows, flow, table->blob) : end(END_REFUSED);
}

static void set_deadline(struct flows *flows, struct flow *flow);

static void step(struct flows *flows, struct flow *flow)
{
	while (!is_over(flow)) {
		struct next next = run_phase(flows, flow);
		if (next.state == (enum flow_state)flow->state)
			break;
		enter(flows, flow, next);
	}
	/* What a side said before its reset is heard: a server's "413" to an upload that it didn't read. */
	if (!is_over(flow) && flow->is_broken)
		enter(flows, flow, end(END_RESET));
	if (!is_over(flow))
		set_deadline(flows, flow);
}

/* ---- deadlines ---- */

/* The earliest moment that is still to come. A sum and a difference of times may disagree in their last bit, so none is looked at
 * before it is surely over. */
static void earlier(double *earliest, double now, double when)
{
	if (when + ROUNDING > now && when + ROUNDING < *earliest)
		*earliest = when + ROUNDING;
}

static double deadline_of(const struct flows *flows, const struct flow *flow)
{
	const struct relay_options *options = flows->options;
	enum flow_state state = (enum flow_state)flow->state;
	double earliest = flows->now + options->idle_deadline, now = flows->now;
	if (is_undecided(state)) {
		double since = flow->first_byte > 0 ? flow->first_byte : flow->steps.accepted;
		earlier(&earliest, now, since + options->sniff_wait);
		earlier(&earliest, now, since + options->opening_deadline);
	}
	if (is_resolving(state) || is_dialling(state)) {
		earlier(&earliest, now, flow->dial_began + options->dial_deadline);
		earlier(&earliest, now, connect_next(&flow->connecting));
	}
	if (is_connected(state)) {
		int is_half_closed = flow->sent.has_ended || flow->received.has_ended;
		earlier(&earliest, now, flow->last_byte + options->idle_deadline);
		if (is_half_closed)
			earlier(&earliest, now, flow->last_byte + options->linger_deadline);
	}
	earlier(&earliest, now, flow->look_again);
	return earliest;
}

/* A timer that is too early costs one look when it is over; so it is moved only where the deadline comes before it. */
static void set_deadline(struct flows *flows, struct flow *flow)
{
	double deadline = deadline_of(flows, flow);
	if (!flow->timer.place || deadline < flow->timer.when)
		timer_set(&flows->timers, &flow->timer, deadline);
}

static int is_idle(const struct flows *flows, const struct flow *flow)
{
	double idle = flows->now - flow->last_byte;
	int is_half_closed = flow->sent.has_ended || flow->received.has_ended;
	return is_connected((enum flow_state)flow->state) &&
	       (idle >= flows->options->idle_deadline || (is_half_closed && idle >= flows->options->linger_deadline));
}

/* A look is worth it again. */
static void wake(struct side *side)
{
	side->is_quiet = 0;
	side->is_readable = side->fd >= 0;
}

/* Its deadline may be over, or it was one that a later byte has moved. */
static void serve_due(struct flows *flows, struct flow *flow)
{
	timer_clear(&flows->timers, &flow->timer);
	if (is_idle(flows, flow)) {
		enter(flows, flow, end(END_IDLE_DEADLINE));
		return;
	}
	if (is_undecided((enum flow_state)flow->state))
		flow->client.is_readable |= flow->first_byte > 0; /* the same bytes may be judged otherwise by now */
	if (flow->look_again > 0 && flow->look_again <= flows->now) {
		flow->look_again = 0;
		wake(&flow->client);
		wake(&flow->upstream);
	}
	step(flows, flow);
}

void flows_serve_due(struct flows *flows)
{
	struct timer *timer;
	while ((timer = timers_first(&flows->timers)) && timer->when <= flows->now)
		serve_due(flows, (struct flow *)((char *)timer - offsetof(struct flow, timer)));
}

double flows_next(const struct flows *flows)
{
	const struct timer *timer = timers_first(&flows->timers);
	return timer ? timer->when : 0;
}

/* ---- from outside ---- */

static struct flow *flow_new(struct flows *flows, struct container *container, int client)
{
	struct flow *flow = timers_reserve(&flows->timers, flows->timers.count + 1) ? calloc(1, sizeof *flow) : NULL;
	if (!flow)
		return NULL;
	flow->container = container;
	flow->share = &container->shares[flows->thread];
	flow->client.fd = client;
	flow->upstream.fd = -1;
	direction_init(&flow->sent, ALLOW_ALL);
	direction_init(&flow->received, ALLOW_ALL);
	flow->number = atomic_fetch_add(flows->numbers, 1) + 1;
	flow->steps.accepted = flow->last_byte = flows->now;
	atomic_fetch_add(&container->openings, 1);
	COUNT(flows, flow, accepted, 1);
	COUNT(flows, flow, flows, 1);
	enlist(flow, &flow->share->flows);
	return flow;
}

/* The name that the container's DNS gave for the destination. A synthetic one is held until the flow ends. Returns 0 without memory. */
static int set_name(struct flow *flow)
{
	struct subject *subject = &flow->subject;
	pthread_mutex_lock(&flow->container->lock);
	struct name *name = names_by_address(flow->container->names, subject->to.address);
	if (name) {
		subject->name = strdup(name->text);
		subject->is_synthetic = subject->name && name_owns(name, subject->to.address);
		name->flows += subject->is_synthetic;
	}
	pthread_mutex_unlock(&flow->container->lock);
	return !name || subject->name;
}

static int watch_client(const struct flows *flows, struct flow *flow)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.u64 = (uint64_t)(uintptr_t)flow};
	return epoll_ctl(flows->epoll, EPOLL_CTL_ADD, flow->client.fd, &event);
}

int flow_begin(struct flows *flows, struct container *container, int client, const struct endpoint *from,
               const struct endpoint *to)
{
	struct flow *flow = flow_new(flows, container, client);
	if (!flow)
		return 0;
	flow->from = *from;
	flow->subject.to = *to;
	const struct table *table = share_table(flow->share);
	flow->published = flow->share->published;
	if (!table) {
		enter(flows, flow, end(END_REFUSED));
	} else if (!set_name(flow) || watch_client(flows, flow) < 0) {
		enter(flows, flow, end(END_NO_RESOURCES));
	} else {
		subject_decide(&flow->subject, table->blob, PROTOCOL_NONE, flow->subject.name);
		if (to->port == DNS_PORT) {
			flow->subject.decision.verdict = VERDICT_HANDLE;
			flow->subject.decision.rule = NO_RULE;
			enter(flows, flow, go(FLOW_SERVED));
		}
		step(flows, flow);
	}
	return 1;
}

static void hear_upstream(struct flow *flow, uint32_t events)
{
	flow->upstream.is_readable |= (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
	flow->upstream.has_closed |= (events & (EPOLLRDHUP | EPOLLHUP)) != 0;
	/* An attempt to dial that failed may be named beside the one that has just become the upstream socket. */
	if ((events & EPOLLERR) && is_connected((enum flow_state)flow->state))
		flow->is_broken |= (uint8_t)is_failed(flow->upstream.fd);
}

static void hear_client(struct flow *flow, uint32_t events)
{
	flow->client.is_readable |= (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
	flow->client.has_closed |= (events & (EPOLLRDHUP | EPOLLHUP)) != 0;
	flow->is_broken |= (events & EPOLLERR) != 0;
}

void flow_event(struct flows *flows, uint64_t cookie, uint32_t events)
{
	struct flow *flow = (struct flow *)(uintptr_t)(cookie & ~(uint64_t)COOKIE_UPSTREAM);
	if (is_over(flow))
		return;
	if (cookie & COOKIE_UPSTREAM)
		hear_upstream(flow, events);
	else
		hear_client(flow, events);
	if (flow->is_broken && !is_connected((enum flow_state)flow->state))
		enter(flows, flow, end(END_RESET));
	else if (flow->state != FLOW_OPENING || flow->client.is_readable)
		step(flows, flow); /* a socket is writable at birth: no byte has come yet */
}

static void step_all(struct flows *flows, struct flow *flow)
{
	for (struct flow *next; flow; flow = next) {
		next = flow->next;
		step(flows, flow);
	}
}

static void end_all(struct flows *flows, struct flow *flow)
{
	for (struct flow *next; flow; flow = next) {
		next = flow->next;
		enter(flows, flow, end(END_DETACHED));
	}
}

void flows_hear(struct flows *flows, struct share *share, uint32_t news)
{
	if (news & NEWS_GONE) {
		end_all(flows, share->flows);
		end_all(flows, share->resolving);
		return;
	}
	step_all(flows, share->resolving);
	if (news & NEWS_POLICY)
		step_all(flows, share->flows);
}

void flows_serve_ready(struct flows *flows)
{
	struct flow *flow = flows->ready;
	flows->ready = NULL;
	while (flow) {
		struct flow *next = flow->next_ready;
		flow->is_ready = 0;
		step(flows, flow);
		flow = next;
	}
}

/* An ended flow that stands in the list of ready ones is freed in the next turn. */
void flows_bury(struct flows *flows)
{
	for (struct flow **link = &flows->dead; *link;) {
		struct flow *flow = *link;
		if (flow->is_ready) {
			link = &flow->next;
			continue;
		}
		*link = flow->next;
		container_release(flow->container);
		subject_free(&flow->subject);
		free(flow);
	}
}

void flows_close(struct flows *flows)
{
	struct timer *timer;
	while ((timer = timers_first(&flows->timers)))
		enter(flows, (struct flow *)((char *)timer - offsetof(struct flow, timer)), end(END_DETACHED));
	flows_serve_ready(flows); /* all ended: the list drops them */
	flows_bury(flows);
	timers_free(&flows->timers);
}
