/* SPDX-License-Identifier: Apache-2.0
 *
 * Follows requests and responses. Owns nothing; called by passing.c.
 */
#include <string.h>

#include "follow.h"

static enum place place_of(uint32_t body)
{
	return body == BODY_CHUNKED ? IN_CHUNKS : IN_LENGTH;
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
	follow->request = (uint8_t)place_of(frame->body);
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

void follow_response_passed(struct follow *follow)
{
	if (follow->response == AT_HEAD || is_in_chunks(follow->response, &follow->response_chunks))
		return;
	follow->response = AT_HEAD;
	follow->is_awaited = 0;
}

/* Passes all further bytes, until the server closes. */
static enum followed pass_until_close(struct follow *follow, uint64_t *allowed)
{
	follow->is_last = 1;
	follow->response = UNTIL_CLOSE;
	*allowed = UINT64_MAX;
	return FOLLOWED_PASS;
}

/* If the connection ends with this response anyway, its end isn't in doubt. */
static enum followed unframed(struct follow *follow, uint64_t *allowed)
{
	return follow->is_last ? pass_until_close(follow, allowed) : FOLLOWED_UNFRAMED;
}

void follow_in_doubt(struct follow *follow)
{
	follow->is_last = 1;
	follow->response = IN_DOUBT;
}

static enum followed begin_response(struct follow *follow, uint64_t head_length, uint64_t *allowed)
{
	struct response response = follow->response_head;
	memset(&follow->response_head, 0, sizeof follow->response_head);
	follow->is_long_head = 0;
	if (response.status_code == 101 || response.status_code >= 200)
		follow->status = (uint16_t)response.status_code;
	if (response.status_code == 101)
		return FOLLOWED_SWITCHED;
	*allowed = head_length;
	if (response.status_code < 200)
		return FOLLOWED_PASS;
	follow->is_last |= !response.keep_alive;
	if (response.body == BODY_UNTIL_CLOSE)
		return pass_until_close(follow, allowed);
	follow->response_chunks = (struct chunks){.is_lenient = 1};
	*allowed += response.body_length;
	follow->response = (uint8_t)place_of(response.body);
	return FOLLOWED_PASS;
}

/* Adds the empty lines that follow these bytes. Clients drop those that come with a response, but some take ones that
 * come later for the next status line. */
static uint64_t with_empty_lines(const uint8_t *bytes, uint32_t length, uint64_t allowed)
{
	while (allowed < length && (bytes[allowed] == '\r' || bytes[allowed] == '\n'))
		allowed++;
	return allowed;
}

/* Looks at bytes that follow no request: an empty line behind a body, or for example "408 Request Timeout" before a
 * close. */
static enum followed look_behind(struct follow *follow, const uint8_t *bytes, uint32_t length, uint64_t *allowed)
{
	*allowed = with_empty_lines(bytes, length, 0);
	return *allowed ? FOLLOWED_PASS : unframed(follow, allowed);
}

static enum followed look_at_response(struct follow *follow, const uint8_t *bytes, uint32_t length, int is_end,
                                      uint64_t *allowed)
{
	enum reading reading;
	if (is_in_chunks(follow->response, &follow->response_chunks)) {
		enum followed followed = look_at_chunks(&follow->response_chunks, bytes, length, allowed);
		return followed == FOLLOWED_UNFRAMED ? unframed(follow, allowed) : followed;
	}
	if (!follow->is_awaited)
		return look_behind(follow, bytes, length, allowed);
	uint32_t parsed = follow->parsed;
	parsed += response_eat(&follow->response_head, bytes + parsed, length - parsed, follow->to_head, &reading);
	follow->parsed = 0;
	if (reading == READING_BAD)
		return unframed(follow, allowed);
	if (reading == READING_WHOLE)
		return begin_response(follow, parsed, allowed);
	if (is_end)
		return pass_until_close(follow, allowed);
	if (length < RESPONSE_HELD && !follow->is_long_head) {
		follow->parsed = parsed;
		return FOLLOWED_MORE;
	}
	follow->is_long_head = 1; /* unread bytes can fill the receive buffer, so that no more come: none is held from here on */
	*allowed = parsed;
	return FOLLOWED_PASS;
}

/* Returns 1 if the rest of the response is allowed to pass. */
static int is_allowed_whole(const struct follow *follow)
{
	return follow->response == IN_LENGTH ||
	       (follow->response == IN_CHUNKS && follow->response_chunks.reading == READING_WHOLE);
}

enum followed follow_response(struct follow *follow, const uint8_t *bytes, uint32_t length, int is_end, uint64_t *allowed)
{
	enum followed followed = look_at_response(follow, bytes, length, is_end, allowed);
	if (followed == FOLLOWED_PASS && is_allowed_whole(follow))
		*allowed = with_empty_lines(bytes, length, *allowed);
	return followed;
}

/* ---- the end ---- */

int follow_is_last_passed(const struct follow *follow)
{
	return follow->is_last && (follow->request == AT_END || follow->request == AT_HEAD);
}

int follow_is_over(const struct follow *follow)
{
	int goes_on = follow->is_awaited || follow->response == UNTIL_CLOSE;
	return follow_is_last_passed(follow) && (follow->response == IN_DOUBT || !goes_on);
}
