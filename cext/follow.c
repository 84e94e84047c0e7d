/* SPDX-License-Identifier: Apache-2.0
 *
 * Follows plain HTTP/1.1 message by message, so that each request is decided by the policy of its moment. RFC 9112.
 *
 * Heads and chunk sizes are peeked at, never consumed: `allowed` says how many bytes may pass before the next look. So a
 * request that is Python's is handed over unread, at exactly its boundary, after the response before it. Called by the
 * flow's thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "flow.h"

/* From here on bytes pass unseen, both ways. */
static int let_pass(struct flow *flow)
{
	flow->is_followed = 0;
	flow->sent.allowed = flow->received.allowed = ALLOW_ALL;
	return 1;
}

/* The rest of the response can't be told from what follows it: it lasts until the server closes, and nothing more is asked. */
static int until_close(struct flow *flow)
{
	flow->follow.is_last = 1;
	flow->received.allowed = ALLOW_ALL;
	return 1;
}

/* Peeks at what comes next: the count, 0 at its end, -1 where nothing is there yet. A socket tells its error once, and here may be
 * where: the flow ends with it, else what comes next would look like an orderly end. */
static ssize_t peek(struct thread *thread, struct flow *flow, int from, size_t most)
{
	ssize_t got = recv(from, thread->buffer, most, MSG_PEEK);
	if (got < 0 && errno != EAGAIN)
		flow_end(thread, flow, END_RESET);
	return got;
}

/* Looks at a chunked body's framing as far as it is there. The count that may pass, 0: it is malformed, -1: wait or ended. */
static int64_t look_at_chunks(struct thread *thread, struct flow *flow, int from, struct chunks *chunks,
                              struct direction *direction)
{
	ssize_t got = peek(thread, flow, from, BUFFER_SIZE);
	if (got <= 0) {
		direction->has_ended = got == 0;
		return -1;
	}
	uint64_t eaten = chunks_eat(chunks, thread->buffer, (uint32_t)got), ahead = chunks_ahead(chunks);
	if (chunks->reading == READING_BAD)
		return 0;
	chunks_skip(chunks, ahead);
	return (int64_t)(eaten + ahead);
}

static enum place place_of(const struct frame *frame)
{
	return frame->body == BODY_CHUNKED ? IN_CHUNKS : IN_LENGTH;
}

/* ---- responses ---- */

static int response_head(struct thread *thread, struct flow *flow)
{
	struct follow *follow = &flow->follow;
	struct frame frame;
	ssize_t got = peek(thread, flow, flow->upstream, HEAD_MAX);
	if (got < 0)
		return 0;
	if (got == 0) {
		flow->received.has_ended = 1;
		return 1;
	}
	if (!follow->is_awaited)
		return until_close(flow); /* a server's last words, "408 Request Timeout" */
	enum reading reading =
		frame_response(&follow->response_head, thread->buffer, (uint32_t)got, follow->to_head, &frame);
	if (reading == READING_MORE)
		return peer_has_closed(flow->upstream) ? until_close(flow) : 0;
	if (reading == READING_BAD)
		return until_close(flow);
	memset(&follow->response_head, 0, sizeof follow->response_head);
	if (frame.status_code == 101)
		return let_pass(flow);
	flow->received.allowed = frame.head_length;
	if (frame.status_code < 200)
		return 1;
	follow->is_last |= !frame.keep_alive;
	if (frame.body == BODY_UNTIL_CLOSE)
		return until_close(flow);
	memset(&follow->response_chunks, 0, sizeof follow->response_chunks);
	flow->received.allowed += frame.body_length;
	follow->response = place_of(&frame);
	return 1;
}

static int follow_response(struct thread *thread, struct flow *flow)
{
	struct follow *follow = &flow->follow;
	if (follow->response == IN_CHUNKS && follow->response_chunks.reading != READING_WHOLE) {
		int64_t count = look_at_chunks(thread, flow, flow->upstream, &follow->response_chunks, &flow->received);
		if (count < 0)
			return flow->received.has_ended;
		if (count == 0)
			return until_close(flow);
		flow->received.allowed = (uint64_t)count;
		return 1;
	}
	if (follow->response != AT_HEAD) {
		follow->response = AT_HEAD;
		follow->is_awaited = 0;
	}
	return response_head(thread, flow);
}

/* ---- requests ---- */

/* A plain request that passes: it may go, with its body. */
static int allow_request(struct flow *flow, const struct frame *frame)
{
	struct follow *follow = &flow->follow;
	memset(&follow->request_head, 0, sizeof follow->request_head);
	memset(&follow->request_chunks, 0, sizeof follow->request_chunks);
	flow->sent.allowed = frame->head_length + frame->body_length;
	follow->request = place_of(frame);
	follow->is_awaited = 1;
	follow->to_head = frame->is_head;
	follow->is_last = !frame->keep_alive;
	return 1;
}

void follow_begin(struct flow *flow, const struct frame *first)
{
	flow->is_followed = 1;
	flow->received.allowed = 0;
	allow_request(flow, first);
}

static int decided_request(struct thread *thread, struct flow *flow, const struct table *table, enum reading reading,
                           const struct frame *frame)
{
	if (reading != READING_BAD) {
		free(flow->host);
		flow->host = frame->host_length ? strdup(frame->host) : NULL;
	}
	decide(flow, table, PROTOCOL_HTTP, frame->host_length ? frame->host : NULL);
	int passes = flow->decision.verdict == VERDICT_SPLICE;
	if (passes && frame->is_plain)
		return allow_request(flow, frame);
	if (passes && !policy_differs(table->blob))
		return let_pass(flow);
	hand_off(thread, flow);
	return 0;
}

static int request_head(struct thread *thread, struct flow *flow)
{
	struct frame frame;
	ssize_t got = peek(thread, flow, flow->client, HEAD_MAX);
	if (got < 0)
		return 0;
	if (got == 0) {
		flow->sent.has_ended = 1;
		return 1;
	}
	enum reading reading = frame_request(&flow->follow.request_head, thread->buffer, (uint32_t)got, &frame);
	if (reading == READING_MORE && !flow->client_has_closed)
		return 0;
	struct table *table = table_of(flow->container);
	if (!table) {
		flow_end(thread, flow, END_REFUSED);
		return 0;
	}
	int may_move = decided_request(thread, flow, table, reading, &frame);
	table_release(table);
	return may_move;
}

static int follow_request(struct thread *thread, struct flow *flow)
{
	struct follow *follow = &flow->follow;
	if (follow->request == IN_CHUNKS && follow->request_chunks.reading != READING_WHOLE) {
		int64_t count = look_at_chunks(thread, flow, flow->client, &follow->request_chunks, &flow->sent);
		if (count == 0)
			flow_end(thread, flow, END_RESET); /* where this body ends is anybody's guess */
		if (count <= 0)
			return flow->sent.has_ended;
		flow->sent.allowed = (uint64_t)count;
		return 1;
	}
	if (follow->request != AT_HEAD)
		follow->request = AT_END;
	if (follow->is_awaited || follow->is_last) {
		flow->sent.has_ended = flow->client_has_closed && peek(thread, flow, flow->client, 1) == 0;
		return flow->sent.has_ended;
	}
	follow->request = AT_HEAD;
	return request_head(thread, flow);
}

int follow(struct thread *thread, struct flow *flow)
{
	int may_move = 0;
	if (flow->received.allowed == 0 && !flow->received.has_ended && direction_is_empty(&flow->received))
		may_move = follow_response(thread, flow);
	if (flow->stage == STAGE_MOVING && flow->is_followed && flow->sent.allowed == 0 && !flow->sent.has_ended &&
	    direction_is_empty(&flow->sent) && follow_request(thread, flow))
		may_move = 1;
	return may_move && flow->stage == STAGE_MOVING;
}
