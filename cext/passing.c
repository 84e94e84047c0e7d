/* SPDX-License-Identifier: Apache-2.0
 *
 * The steps of a connected flow: they run move and follow, and decide it anew when its policy changes. Owns nothing;
 * called by flow.c.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "content.h"
#include "exchange.h"
#include "peek.h"
#include "steps.h"

#define ROUNDS_MAX 64    /* rounds of one followed flow before the thread's other flows have their turn */

void begin_exchange(const struct flows *flows, struct flow *flow, const struct frame *frame)
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

void note_moved(const struct flows *flows, struct flow *flow, uint64_t before)
{
	if (flow->sent.moved + flow->received.moved == before)
		return;
	if (!flow->steps.answered && flow->received.moved)
		flow->steps.answered = flows->now;
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

static int wants_look(const struct direction *direction)
{
	return direction->allowed == 0 && !direction->has_ended && direction_is_empty(direction);
}

/* ---- bytes that pass unframed ---- */

/* Returns 1 if the client's bytes could be a request to a proxy. Opaque ones could until a byte comes that no request
 * line has; a server that has spoken first is no proxy. */
static int could_ask_proxy(const struct flow *flow)
{
	if (flow->protocol == PROTOCOL_OPAQUE)
		return flow->subject.is_in_doubt && !flow->watch.has_binary;
	return flow->protocol == PROTOCOL_HTTP;
}

void allow_unframed(struct flow *flow, const void *table)
{
	flow->sent.allowed = could_ask_proxy(flow) && policy_differs(table) ? 0 : ALLOW_ALL;
}

/* Decides a request to a proxy by the host that it asks for. It is refused if a rule could decide it: it isn't framed, so
 * no handler can serve it. */
static struct next decide_asked(struct flow *flow, const void *table)
{
	struct subject *subject = &flow->subject;
	char host[HOST_MAX + 1];
	if (!host_canonical(flow->watch.authority, flow->watch.length, host))
		return end(END_REFUSED);
	if (!subject_set_host(subject, flow->watch.authority))
		return end(END_NO_RESOURCES);
	flow->protocol = PROTOCOL_HTTP;
	subject_decide(subject, table, PROTOCOL_HTTP, subject->host);
	int is_refused = subject->decision.verdict != VERDICT_SPLICE || subject_says_no_name(subject, table) ||
	                 subject_may_reach_ruled(subject, table);
	return is_refused ? end(END_REFUSED) : go(FLOW_UNFRAMED);
}

static struct next watch_client(struct flows *flows, struct flow *flow, const void *table)
{
	struct next next = stay(flow);
	ssize_t got = peek(flows, &flow->client, BUFFER_SIZE);
	if (got == -1)
		return next;
	if (got < 0)
		return failed(errno);
	flow->sent.has_ended = got == 0;
	for (uint32_t at = 0; at < got && next.state != FLOW_ENDED;) {
		at += watch_eat(&flow->watch, flows->workspace->buffer + at, (uint32_t)got - at);
		if (flow->watch.is_asked)
			next = decide_asked(flow, table);
	}
	flow->sent.allowed = could_ask_proxy(flow) ? (uint64_t)got : ALLOW_ALL;
	return next;
}

struct next step_splice(struct flows *flows, struct flow *flow, const void *table)
{
	for (int round = 0; round < ROUNDS_MAX; round++) {
		enum moved moved = move_both(flows, flow);
		if (moved == MOVED_BROKEN)
			return failed(flow->sent.error ? flow->sent.error : flow->received.error);
		if (flow->sent.is_shut && flow->received.is_shut)
			return end(END_DONE);
		if (moved == MOVED_MORE)
			break;
		if (!wants_look(&flow->sent))
			return stay(flow);
		struct next next = watch_client(flows, flow, table);
		if (next.state != (enum flow_state)flow->state || wants_look(&flow->sent))
			return next;
	}
	serve_later(flows, flow);
	return stay(flow);
}

/* Passes all further bytes unframed, in both directions. */
static struct next pass_unframed(struct flow *flow, const void *table)
{
	hear_every_byte(flow, &flow->client);
	hear_every_byte(flow, &flow->upstream);
	flow->received.allowed = ALLOW_ALL;
	allow_unframed(flow, table);
	return go(FLOW_UNFRAMED);
}

/* ---- followed requests and responses ---- */

/* Passes the bytes of the protocol that the client and server have changed to, unparsed. */
static struct next pass_switched(struct flow *flow)
{
	hear_every_byte(flow, &flow->client);
	hear_every_byte(flow, &flow->upstream);
	flow->sent.allowed = flow->received.allowed = ALLOW_ALL;
	return go(FLOW_SPLICING);
}

/* Handles a message whose end is unknown. A request whose further bytes could reach a host with a rule resets the flow,
 * and elsewhere all bytes pass unparsed. So they do after a response if no rule could decide another request differently.
 * Otherwise a response passes until the server closes or close_deadline: the connection
 * serves no further request. */
static struct next unframed(struct flow *flow, const void *table, int is_request)
{
	int is_checked = is_request ? subject_may_reach_ruled(&flow->subject, table) : policy_differs(table);
	if (!is_checked)
		return pass_unframed(flow, table);
	if (is_request)
		return end(END_RESET);
	follow_in_doubt(&flow->follow);
	flow->received.allowed = ALLOW_ALL;
	return stay(flow);
}

/* Returns 1 if Python must send the request on a connection of its own: its server could take the content for further
 * requests, which would bypass a rule. */
static int is_ours_to_send(const struct flows *flows, const struct flow *flow, const void *table, const struct frame *frame)
{
	return content_is_unusual(frame, flows->workspace->buffer, flows->options->content_methods) &&
	       subject_may_reach_ruled(&flow->subject, table);
}

/* Decides a request whose head is at the beginning of the workspace's buffer, which has `length` bytes. */
static struct next decide_request(struct flows *flows, struct flow *flow, const void *table, enum reading reading,
                                  const struct frame *frame, uint32_t length)
{
	const char *host = frame->host_length ? frame->host : NULL;
	char before[HOST_MAX + 1] = "";
	if (flow->subject.host)
		strncpy(before, flow->subject.host, HOST_MAX);
	if (reading != READING_BAD && !subject_set_host(&flow->subject, host))
		return end(END_NO_RESOURCES);
	subject_decide(&flow->subject, table, PROTOCOL_HTTP, host);
	if (flow->subject.decision.verdict != VERDICT_SPLICE || subject_says_no_name(&flow->subject, table) ||
	    !connect_suits(flow->container, &flow->subject, table, before))
		return go(FLOW_SERVED); /* Python also sends a request to another address than the connected one */
	if (reading == READING_WHOLE && frame->is_plain && !is_ours_to_send(flows, flow, table, frame)) {
		flow->sent.allowed = follow_pass_request(&flow->follow, frame);
		begin_exchange(flows, flow, frame);
		return stay(flow);
	}
	int may_be_forwarded = reading != READING_WHOLE && frame_is_for_proxy(flows->workspace->buffer, length);
	int is_served = subject_may_reach_ruled(&flow->subject, table) || (may_be_forwarded && policy_differs(table));
	return is_served ? go(FLOW_SERVED) : pass_unframed(flow, table);
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
		next = decide_request(flows, flow, table, reading, &frame, (uint32_t)got);
	looked(&flow->client, got, flow->sent.allowed);
	return next;
}

/* No request is expected now: checks only whether the client has closed. If it sends more after the connection's last
 * request, and no rule could decide it differently, all further bytes pass unparsed. */
static struct next look_for_end(struct flows *flows, struct flow *flow, const void *table)
{
	int is_last = follow_is_last_passed(&flow->follow) && !policy_differs(table);
	ssize_t got = flow->client.has_closed || is_last ? peek(flows, &flow->client, 1) : -1;
	if (got > 0 && is_last)
		return pass_unframed(flow, table);
	flow->sent.has_ended = got == 0;
	return stay(flow);
}

static struct next look_at_response(struct flows *flows, struct flow *flow, const void *table)
{
	ssize_t got = peek(flows, &flow->upstream, flow->follow.response == IN_CHUNKS ? BUFFER_SIZE : RESPONSE_HELD);
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
		return pass_switched(flow);
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
	return look_for_end(flows, flow, table);
}

/* Ends a flow after its last response. The client's bytes are discarded until it closes or close_deadline: closing a socket
 * with unread bytes would reset it, and the reset could overtake the response. */
static struct next discard_rest(struct flows *flows, struct flow *flow)
{
	if (!flow->sent.is_shut)
		shutdown(flow->upstream.fd, SHUT_RDWR);
	flow->sent.has_ended = flow->sent.is_shut = 1;
	for (int round = 0; round < ROUNDS_MAX; round++) {
		ssize_t got = recv(flow->client.fd, flows->workspace->buffer, BUFFER_SIZE, MSG_TRUNC);
		if (got == 0)
			return end(END_DONE);
		if (got < 0)
			return errno == EAGAIN ? stay(flow) : failed(errno);
	}
	serve_later(flows, flow);
	return stay(flow);
}

struct next step_follow(struct flows *flows, struct flow *flow, const void *table)
{
	for (int round = 0; round < ROUNDS_MAX; round++) {
		enum moved moved = move_both(flows, flow);
		if (moved == MOVED_BROKEN)
			return failed(flow->sent.error ? flow->sent.error : flow->received.error);
		if (flow->received.is_shut && wants_look(&flow->sent))
			follow_request_passed(&flow->follow);
		if (flow->received.is_shut && follow_is_last_passed(&flow->follow))
			return discard_rest(flows, flow);
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

/* Returns 1 if the connected address has become a ruled host's, and the container's DNS didn't give it for the host that
 * the client says. A server that has spoken first stays connected. */
static int is_ruled_now(struct flow *flow, const void *table)
{
	const struct subject *subject = &flow->subject;
	const char *host = subject->protocol == PROTOCOL_OPAQUE ? NULL : subject->host;
	return subject->protocol != PROTOCOL_NONE &&
	       container_standing(flow->container, table, host, &subject->reached) == STANDING_RULED;
}

/* Decides anew an open flow whose bytes pass unparsed. A handler can't take it over, so it continues if the policy
 * would give it to one. */
static struct next judge_open(struct flow *flow, const void *table)
{
	struct subject *subject = &flow->subject;
	int was_blind = flow->state == FLOW_UNFRAMED || flow->protocol == PROTOCOL_HTTP2;
	if ((was_blind && subject_may_reach_ruled(subject, table)) || is_ruled_now(flow, table))
		return end(END_REFUSED);
	subject_decide(subject, table, subject->protocol, subject->host);
	int is_refused = subject->decision.verdict == VERDICT_REFUSE && subject->decision.reason != REASON_NOT_HTTP;
	int could_ask = flow->state == FLOW_UNFRAMED || flow->protocol == PROTOCOL_OPAQUE;
	if (could_ask && flow->sent.allowed == ALLOW_ALL) { /* no policy before had a rule */
		allow_unframed(flow, table);
		flow->client.is_readable = 1;
	}
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
