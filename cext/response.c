/* SPDX-License-Identifier: Apache-2.0
 *
 * Parses the heads of HTTP/1.1 responses. Owns nothing; called by follow.c.
 */
#include "response.h"
#include "slice.h"

/* The kinds of lines after the status line. */
enum field { FIELD_NONE, FIELD_OTHER, FIELD_CONNECTION, FIELD_LENGTH, FIELD_CODING };

static int is_digit(uint8_t byte)
{
	return byte >= '0' && byte <= '9';
}

/* ---- the status line ---- */

static int read_version(struct slice *line, uint8_t *minor)
{
	uint32_t length = 0;
	if (line->length > 8 && memcmp(line->at, "HTTP/1.", 7) == 0 && is_digit(line->at[7])) {
		*minor = line->at[7] > '0';
		length = 8;
	} else if (line->length > 3 && memcmp(line->at, "ICY", 3) == 0) {
		length = 3; /* SHOUTcast: HTTP/1.0 under another name */
	}
	*line = (struct slice){line->at + length, line->length - length};
	return length > 0;
}

static enum reading read_status_line(struct response *response, struct slice line)
{
	if (!read_version(&line, &response->minor) || !is_blank(*line.at))
		return READING_BAD;
	line = trimmed(line);
	if (line.length < 3 || (line.length > 3 && is_digit(line.at[3])))
		return READING_BAD;
	uint32_t code = 0;
	for (int i = 0; i < 3; i++) {
		if (!is_digit(line.at[i]))
			return READING_BAD;
		code = code * 10 + line.at[i] - '0';
	}
	response->status_code = code;
	return code >= 100 ? READING_MORE : READING_BAD;
}

/* ---- fields ---- */

/* Returns 0 if the text isn't a decimal number of 1 to 18 digits. */
static int read_number(struct slice text, uint64_t *number)
{
	*number = 0;
	for (uint32_t i = 0; i < text.length; i++) {
		if (!is_digit(text.at[i]))
			return 0;
		*number = *number * 10 + (text.at[i] - '0');
	}
	return text.length > 0 && text.length <= 18;
}

static void read_length(struct response *response, struct slice value)
{
	struct slice member;
	uint64_t length;
	response->is_doubtful |= value.length == 0;
	while (next_member(&value, &member)) {
		if (!read_number(member, &length) || (response->has_length && response->content_length != length))
			response->is_doubtful = 1;
		response->has_length = 1;
		response->content_length = length;
	}
}

static void read_codings(struct response *response, struct slice value)
{
	struct slice coding;
	while (next_member(&value, &coding)) {
		if (coding.length == 0 || (equals(coding, "identity") && !response->is_chunked))
			continue;
		response->is_doubtful |= response->is_chunked || !is_token(coding);
		if (equals(coding, "chunked"))
			response->is_chunked = 1;
		else
			response->has_coding = 1;
	}
}

static void read_connection(struct response *response, struct slice value)
{
	struct slice option;
	while (next_member(&value, &option)) {
		response->close |= equals(option, "close");
		response->says_keep_alive |= equals(option, "keep-alive");
	}
}

static enum field kind_of(struct slice name)
{
	if (equals(name, "content-length"))
		return FIELD_LENGTH;
	if (equals(name, "transfer-encoding"))
		return FIELD_CODING;
	return equals(name, "connection") ? FIELD_CONNECTION : FIELD_OTHER;
}

/* Returns the text before the first colon, or an empty slice if there is none. */
static struct slice name_of(struct slice line)
{
	const uint8_t *colon = memchr(line.at, ':', line.length);
	return (struct slice){line.at, colon ? (uint32_t)(colon - line.at) : 0};
}

/* Returns the kind of a line's field; FIELD_NONE: clients ignore the line, or read a field in it. */
static enum field field_of(const struct response *response, struct slice line)
{
	struct slice name = name_of(line);
	if (is_blank(*line.at))
		return (enum field)response->last;
	return is_token(name) ? kind_of(name) : FIELD_NONE;
}

static int contains(struct slice text, const char *name)
{
	size_t length = strlen(name);
	for (uint32_t at = 0; at + length <= text.length; at++)
		if (strncasecmp((const char *)text.at + at, name, length) == 0)
			return 1;
	return 0;
}

/* Searches a part of a line that clients ignore for a field that they could read in it. */
static void search(struct response *response, struct slice text)
{
	response->is_doubtful |= contains(text, "content-length") || contains(text, "transfer-encoding");
}

/* A bare CR could end the line for some clients: searches the text behind it. */
static void search_behind_cr(struct response *response, struct slice line)
{
	const uint8_t *cr = memchr(line.at, '\r', line.length);
	if (cr)
		search(response, (struct slice){cr, line.length - (uint32_t)(cr - line.at)});
}

static void read_field(struct response *response, struct slice line)
{
	enum field field = field_of(response, line);
	int is_folded = is_blank(*line.at);
	uint32_t name = is_folded ? 0 : name_of(line).length + 1;
	struct slice value = field == FIELD_NONE ? line : trimmed((struct slice){line.at + name, line.length - name});
	if (field == FIELD_NONE)
		search(response, line);
	else
		search_behind_cr(response, line);
	if (field == FIELD_CONNECTION)
		read_connection(response, value);
	else if (is_folded)
		response->is_doubtful |= field == FIELD_LENGTH || field == FIELD_CODING;
	else if (field == FIELD_LENGTH)
		read_length(response, value);
	else if (field == FIELD_CODING)
		read_codings(response, value);
	response->last = field == FIELD_NONE ? FIELD_OTHER : (uint8_t)field;
}

/* ---- the head ---- */

static int is_bodiless(const struct response *response, int to_head)
{
	uint32_t code = response->status_code;
	return to_head || code < 200 || code == 204 || code == 304;
}

/* Sets the public members, after the blank line. */
static enum reading set_response(struct response *response, int to_head)
{
	int has_coding = response->is_chunked || response->has_coding;
	int is_doubtful = response->is_doubtful || (has_coding && (response->has_length || response->minor == 0));
	response->keep_alive = !response->close && (response->minor == 1 || response->says_keep_alive);
	if (is_bodiless(response, to_head))
		return READING_WHOLE;
	if (is_doubtful && response->keep_alive)
		return READING_BAD;
	if (is_doubtful || (!response->is_chunked && !response->has_length)) {
		response->body = BODY_UNTIL_CLOSE;
		response->keep_alive = 0;
	} else if (response->is_chunked) {
		response->body = BODY_CHUNKED;
	} else if (response->content_length) {
		response->body = BODY_LENGTH;
		response->body_length = response->content_length;
	}
	return READING_WHOLE;
}

/* Reads a complete line with its LF. */
static enum reading read_line(struct response *response, const uint8_t *bytes, uint32_t length, int to_head)
{
	struct slice line = {bytes, length - 1 - (length > 1 && bytes[length - 2] == '\r')};
	if (line.length && *line.at == '\r')
		return READING_BAD; /* curl ends the head here */
	if (!response->status_code && line.length) {
		search_behind_cr(response, line);
		return read_status_line(response, line);
	}
	if (line.length)
		read_field(response, line);
	return line.length || !response->status_code ? READING_MORE : set_response(response, to_head);
}

/* ---- long lines ---- */

enum rest { REST_NONE, REST_SKIPPED, REST_SEARCHED };

#define OVERLAP 16 /* bytes: one less than the longest name that is searched for */

/* Searches a part of a line, together with the last bytes of the part before it. */
static void search_part(struct response *response, const uint8_t *bytes, uint32_t length)
{
	uint8_t joined[2 * OVERLAP];
	uint32_t some = length < OVERLAP ? length : OVERLAP, both = response->kept + some;
	memcpy(joined, response->line, response->kept);
	memcpy(joined + response->kept, bytes, some);
	search(response, (struct slice){joined, both});
	search(response, (struct slice){bytes, length});
	const uint8_t *end = length < OVERLAP ? joined + both : bytes + length;
	response->kept = (uint16_t)(length < OVERLAP && both < OVERLAP ? both : OVERLAP);
	memmove(response->line, end - response->kept, response->kept);
}

/* Returns the offset of the first bare CR, or `length` if there is none. A CR at the end isn't one if LF follows it. */
static uint32_t find_bare_cr(struct response *response, const uint8_t *bytes, uint32_t length)
{
	const uint8_t *cr = memchr(bytes, '\r', length);
	if (response->is_after_cr && length)
		return 0;
	response->is_after_cr = cr && cr + 1 == bytes + length;
	return cr && !response->is_after_cr ? (uint32_t)(cr - bytes) : length;
}

/* Passes a part of a long line, up to its end. */
static uint32_t eat_rest(struct response *response, const uint8_t *bytes, uint32_t length)
{
	const uint8_t *lf = memchr(bytes, '\n', length);
	uint32_t end = lf ? (uint32_t)(lf - bytes) : length, from = 0;
	if (response->rest == REST_SKIPPED && end) {
		from = find_bare_cr(response, bytes, end);
		response->rest = from < end ? REST_SEARCHED : REST_SKIPPED;
	}
	if (response->rest == REST_SEARCHED)
		search_part(response, bytes + from, end - from);
	if (!lf)
		return length;
	response->rest = REST_NONE;
	response->kept = response->is_after_cr = 0;
	return end + 1;
}

/* Begins a line of which RESPONSE_LINE_MAX bytes are kept and the end hasn't been found. */
static enum reading begin_long_line(struct response *response)
{
	uint8_t bytes[RESPONSE_LINE_MAX];
	struct slice line = {bytes, RESPONSE_LINE_MAX};
	memcpy(bytes, response->line, sizeof bytes);
	response->kept = 0;
	response->rest = REST_SKIPPED;
	if (*bytes == '\r')
		return READING_BAD;
	if (!response->status_code) {
		enum reading reading = read_status_line(response, line);
		if (reading == READING_BAD)
			return reading;
	} else {
		enum field field = field_of(response, line);
		response->rest = field == FIELD_NONE ? REST_SEARCHED : REST_SKIPPED;
		response->is_doubtful |= field > FIELD_OTHER;
		response->says_keep_alive |= field == FIELD_CONNECTION; /* unread, it may say so */
		response->last = field == FIELD_NONE ? FIELD_OTHER : (uint8_t)field;
	}
	eat_rest(response, bytes, sizeof bytes);
	return READING_MORE;
}

/* ---- the bytes ---- */

/* Parses up to the next line's end. An incomplete line is kept, up to RESPONSE_LINE_MAX bytes. */
static uint32_t eat_line(struct response *response, const uint8_t *bytes, uint32_t length, int to_head,
                         enum reading *reading)
{
	const uint8_t *lf = memchr(bytes, '\n', length);
	uint32_t some = lf ? (uint32_t)(lf - bytes) + 1 : length, room = RESPONSE_LINE_MAX - response->kept;
	if (lf && !response->kept && some <= room) {
		*reading = read_line(response, bytes, some, to_head);
		return some;
	}
	if (some > room)
		some = room;
	memcpy(response->line + response->kept, bytes, some);
	response->kept = (uint16_t)(response->kept + some);
	if (bytes[some - 1] == '\n') {
		*reading = read_line(response, response->line, response->kept, to_head);
		response->kept = 0;
	} else if (response->kept == RESPONSE_LINE_MAX) {
		*reading = begin_long_line(response);
	}
	return some;
}

uint32_t response_eat(struct response *response, const uint8_t *bytes, uint32_t length, int to_head,
                      enum reading *reading)
{
	uint32_t eaten = 0;
	*reading = READING_MORE;
	while (eaten < length && *reading == READING_MORE)
		eaten += response->rest ? eat_rest(response, bytes + eaten, length - eaten)
		                        : eat_line(response, bytes + eaten, length - eaten, to_head, reading);
	return eaten;
}
