/* SPDX-License-Identifier: Apache-2.0
 *
 * Follows requests and responses. Owns nothing; called by passing.c.
 */
#include <string.h>

#include "follow.h"

static enum place place_of(const struct frame *frame)
{
	return frame->body == BODY_CHUNKED ? IN_CHUNKS : IN_LENGTH;
}

/* Parses the framing of a chunked body that has arrived, and allows the chunk data that follows it. */
static enum followed look_at_chunks(struct chunks *chunks, const uint8_t *bytes, uint32_t length, uint64_t *allowed)
{
	uint64_t eaten = chunks_eat(chunks, bytes, length), ahead = chunks_ahead(chunks);
	if (chunks->reading == READING_BAD)
		return FOLLOWED_UNFRAMED;
	chunks_skip(chunks, ahead);
	*allowed = eaten + ahead;
	return FOLLOWED_PASS;
}

static int is_in_chunks(uint8_t place, const struct chunks *chunks)
{
	return place == IN_CHUNKS && chunks->reading != READING_WHOLE;
}

/* ---- requests ---- */

uint64_t follow_pass_request(struct follow *follow, const struct frame *frame)
{
	memset(&follow->request_head, 0, sizeof follow->request_head);
	memset(&follow->request_chunks, 0, sizeof follow->request_chunks);
	follow->request = (uint8_t)place_of(frame);
	follow->is_awaited = 1;
	follow->status = 0;
	follow->to_head = frame->is_head;
	follow->is_last = !frame->keep_alive;
	return frame->head_length + frame->body_length;
}

uint64_t follow_begin(struct follow *follow, const struct frame *first)
{
	memset(follow, 0, sizeof *follow);
	return follow_pass_request(follow, first);
}

void follow_request_passed(struct follow *follow)
{
	if (follow->request != AT_HEAD && !is_in_chunks(follow->request, &follow->request_chunks))
		follow->request = AT_END;
	if (follow->request == AT_END && !follow->is_awaited && !follow->is_last)
		follow->request = AT_HEAD;
}

int follow_expects_request(const struct follow *follow)
{
	return follow->request != AT_END && !(follow->request == AT_HEAD && follow->is_last);
}

enum followed follow_request(struct follow *follow, const uint8_t *bytes, uint32_t length, int is_end, uint64_t *allowed,
                             enum reading *reading, struct frame *frame)
{
	if (is_in_chunks(follow->request, &follow->request_chunks))
		return look_at_chunks(&follow->request_chunks, bytes, length, allowed);
	*reading = frame_request(&follow->request_head, bytes, length, frame);
	return *reading == READING_MORE && !is_end ? FOLLOWED_MORE : FOLLOWED_REQUEST;
}

/* ---- responses ---- */

void follow_until_close(struct follow *follow)
{
	follow->is_last = 1;
}

void follow_response_passed(struct follow *follow)
{
	if (follow->response == AT_HEAD || is_in_chunks(follow->response, &follow->response_chunks))
		return;
	follow->response = AT_HEAD;
	follow->is_awaited = 0;
}

/* Passes a response whose end isn't framed: its bytes pass until the server closes. */
static enum followed pass_until_close(struct follow *follow, uint64_t *allowed)
{
	follow_until_close(follow);
	*allowed = UINT64_MAX;
	return FOLLOWED_PASS;
}

static enum followed look_at_response(struct follow *follow, const struct frame *frame, uint64_t *allowed)
{
	memset(&follow->response_head, 0, sizeof follow->response_head);
	if (frame->status_code == 101 || frame->status_code >= 200)
		follow->status = frame->status_code;
	if (frame->status_code == 101)
		return FOLLOWED_SWITCHED;
	*allowed = frame->head_length;
	if (frame->status_code < 200)
		return FOLLOWED_PASS;
	follow->is_last |= !frame->keep_alive;
	if (frame->body == BODY_UNTIL_CLOSE)
		return pass_until_close(follow, allowed);
	memset(&follow->response_chunks, 0, sizeof follow->response_chunks);
	*allowed += frame->body_length;
	follow->response = (uint8_t)place_of(frame);
	return FOLLOWED_PASS;
}

enum followed follow_response(struct follow *follow, const uint8_t *bytes, uint32_t length, int is_end, uint64_t *allowed)
{
	struct frame frame;
	if (is_in_chunks(follow->response, &follow->response_chunks))
		return look_at_chunks(&follow->response_chunks, bytes, length, allowed);
	if (!follow->is_awaited)
		return pass_until_close(follow, allowed); /* without a request: for example "408 Request Timeout" before a close */
	enum reading reading = frame_response(&follow->response_head, bytes, length, follow->to_head, &frame);
	if (reading == READING_BAD)
		return FOLLOWED_UNFRAMED;
	if (reading == READING_MORE)
		return is_end ? pass_until_close(follow, allowed) : FOLLOWED_MORE;
	return look_at_response(follow, &frame, allowed);
}
