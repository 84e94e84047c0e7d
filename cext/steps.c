/* SPDX-License-Identifier: Apache-2.0
 *
 * The steps of a flow. Owns nothing; called by flow.c.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "events.h"
#include "exchange.h"
#include "steps.h"

#define ROUNDS_MAX 64    /* rounds of one followed flow before the thread's other flows have their turn */
#define LOOKS_MAX 4      /* peeks at an incomplete head before single bytes stop waking the thread */
#define QUIET_BYTES 1024 /* bytes that wake the thread after that */
#define QUIET_TIME 0.05  /* seconds after which it peeks again in any case */

/* A side's `looks` after too many peeks. */
enum { QUIET = LOOKS_MAX + 1, STALLED };

/* Returns 1 if the peer has closed its half: no bytes will follow those in the receive buffer. */
static int peer_has_closed(int fd)
{
	struct pollfd state = {.fd = fd, .events = POLLRDHUP};
	return poll(&state, 1, 0) > 0;
}

/* ---- followed requests ---- */

static void begin_exchange(const struct flows *flows, struct flow *flow, const struct frame *frame)
{
	exchange_drop(flow->exchange); /* the same request, judged again before its flow is connected */
	flow->exchange = NULL;
	if (!record_is_wanted(flows->relay, RECORD_REQUEST))
		return;
	struct relay_record record = {.container = flow->container->id, .flow = flow->number, .protocol = flow->protocol,
	                              .decision = flow->subject.decision, .client = flow->from, .destination = flow->subject.to,
	                              .sent = flow->sent.moved, .received = flow->received.moved, .began = flows->now,
	                              .judged = flows->now};
	flow->exchange = exchange_begin(&record, flows->workspace->buffer, frame);
}

void end_exchange(const struct flows *flows, struct flow *flow)
{
	exchange_end(flow->exchange, flows->relay, flow->sent.moved, flow->received.moved, flows->now);
	flow->exchange = NULL;
}

/* ---- peeking ---- */

/* Peeks at up to `most` bytes. Returns their count, 0 at the end, -1 if nothing new has arrived, or -2 with errno if
 * the socket has failed. A socket reports an error only once, and this call may be the one that gets it. */
static ssize_t peek(const struct flows *flows, struct side *side, size_t most)
{
	if ((!side->is_readable || side->is_quiet) && !side->has_closed)
		return -1;
	ssize_t got = recv(side->fd, flows->workspace->buffer, most, MSG_PEEK);
	side->is_readable = got == (ssize_t)most;
	return got >= 0 ? got : errno == EAGAIN ? -1 : -2;
}

/* After a peek at `got` bytes of which `allowed` may pass: the others have already arrived, so epoll won't report
 * them again. */
static void looked(struct side *side, ssize_t got, uint64_t allowed)
{
	side->is_readable |= allowed < (uint64_t)got;
}

static int set_low_water(const struct side *side, int bytes)
{
	return setsockopt(side->fd, SOL_SOCKET, SO_RCVLOWAT, &bytes, sizeof bytes);
}

void hear_every_byte(struct flow *flow, struct side *side)
{
	if (side->looks > LOOKS_MAX && set_low_water(side, 1) < 0)
		flow->is_broken = 1; /* fewer bytes than the old mark would never wake the thread */
	side->looks = side->is_quiet = 0;
	side->seen = 0;
}

/* No bytes have come since the last peek: lets the next byte wake the thread, and no timer. The option is set once for the
 * same bytes, since setting it can wake the thread. Returns 0 if it can't be set. */
static int wait_for_any_byte(struct side *side, ssize_t got)
{
	if (side->looks == STALLED)
		return 1;
	if (set_low_water(side, (int)got + 1) < 0)
		return 0;
	side->looks = STALLED;
	return 1;
}

/* Delays the next peek at an incomplete head, so that a head sent in single bytes doesn't cost a peek for each. After
 * LOOKS_MAX peeks the next one comes after QUIET_TIME; until then SO_RCVLOWAT lets only many bytes wake the thread.
 * Setting the option wakes it as well, and so does each byte once single bytes have filled the receive buffer:
 * `is_quiet` prevents a peek then. If a peek finds no new bytes, the thread waits for the next byte, without a timer. */
static void look_later(const struct flows *flows, struct flow *flow, struct side *side, ssize_t got)
{
	if (side->looks < LOOKS_MAX) {
		side->looks++;
		return;
	}
	if (side->seen == (uint32_t)got && wait_for_any_byte(side, got))
		return;
	side->looks = QUIET;
	side->seen = (uint32_t)got;
	int bytes = (int)got + QUIET_BYTES;
	side->is_quiet = set_low_water(side, bytes < HEAD_MAX ? bytes : HEAD_MAX) == 0;
	flow->look_again = flows->now + QUIET_TIME;
}

/* ---- phase: judge ---- */

/* Returns the next state of a flow that was decided to pass: to its addresses, or to `goal` if a server is
 * connected. */
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

/* Returns 1 if a silent client's server may be dialled. On a port whose clients speak first, or for a host with a rule,
 * the client has sniff_wait to speak. Otherwise the server may speak first, so it is dialled at once. */
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

struct next step_opening(struct flows *flows, struct flow *flow, const void *table)
{
	struct next next = judge_client(flows, flow, table);
	if (next.state == FLOW_OPENING && !flow->first_byte)
		next = open_silently(flows, flow, table);
	if (next.state == FLOW_OPENING)
		connect_cancel(&flow->connecting); /* an attempt that was begun under an earlier policy */
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

/* ---- phase: connect ---- */

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
	struct connect_place place = {flows->epoll, flows->netlink, (uint64_t)(uintptr_t)flow | COOKIE_UPSTREAM};
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

struct next step_dial(struct flows *flows, struct flow *flow, const void *table)
{
	enum end_cause cause;
	switch (connect_step(&flow->connecting, flows->now, &cause)) {
	case DIAL_CONNECTED:
		flow->upstream.fd = connect_take(&flow->connecting, &flow->subject.reached);
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

/* ---- phase: move ---- */

static void note_moved(const struct flows *flows, struct flow *flow, uint64_t before)
{
	if (flow->sent.moved + flow->received.moved == before)
		return;
	if (!flow->steps.answered && flow->received.moved)
		flow->steps.answered = flows->now;
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

/* Moves bytes in both directions. Returns MOVED_IDLE if nothing more can be moved now. */
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

struct next step_splice(struct flows *flows, struct flow *flow, const void *table)
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

/* Passes all further bytes unparsed, in both directions. */
static struct next pass_unseen(struct flow *flow, enum flow_state state)
{
	hear_every_byte(flow, &flow->client);
	hear_every_byte(flow, &flow->upstream);
	flow->sent.allowed = flow->received.allowed = ALLOW_ALL;
	return go(state);
}

/* Handles a message whose end is unknown. If no rule could decide another request differently, all bytes pass unparsed.
 * Otherwise a request resets the flow, and a response passes until the server closes: the connection serves no further
 * request. */
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

/* No request is expected now; checks only whether the client has closed. */
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

struct next step_follow(struct flows *flows, struct flow *flow, const void *table)
{
	for (int round = 0; round < ROUNDS_MAX; round++) {
		enum moved moved = move_both(flows, flow);
		if (moved == MOVED_BROKEN)
			return failed(flow->sent.error ? flow->sent.error : flow->received.error);
		/* Bytes that a client sent after the connection's last request are never forwarded, and must not keep the flow open. */
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

/* Decides anew an open flow whose bytes pass unparsed. A handler can't take it over, so it continues if the policy
 * would give it to one. */
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

/* A followed flow finishes its exchange; its next request is decided by the new policy. */
struct next judge_again(struct flow *flow, const void *table)
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
