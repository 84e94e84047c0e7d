/* SPDX-License-Identifier: Apache-2.0
 *
 * Frames HTTP/1.1 messages (RFC 9112). Owns nothing; see frame.h for what is refused.
 */
#include <string.h>
#include <strings.h>

#include "frame.h"

struct slice {
	const uint8_t *at;
	uint32_t length;
};

/* What the fields of one head say, whoever sent it. */
struct fields {
	uint32_t hosts, lengths, codings, upgrades;
	struct slice host;
	uint64_t length;
	uint8_t chunked, close, keep_alive, expect_continue, connection_upgrade, http2;
};

static const char *const bad_line = "the first line is malformed";

static int bad(struct frame *out, uint32_t answer, const char *reason)
{
	out->status = FRAME_BAD;
	out->answer = answer;
	out->reason = reason;
	return 0;
}

static int is_token_byte(uint8_t byte)
{
	if ((byte >= '0' && byte <= '9') || (byte >= 'A' && byte <= 'Z') || (byte >= 'a' && byte <= 'z'))
		return 1;
	return byte && strchr("!#$%&'*+-.^_`|~", byte) != NULL;
}

static int is_token(struct slice text)
{
	for (uint32_t i = 0; i < text.length; i++)
		if (!is_token_byte(text.at[i]))
			return 0;
	return text.length > 0;
}

static int equals(struct slice text, const char *other)
{
	return text.length == strlen(other) && strncasecmp((const char *)text.at, other, text.length) == 0;
}

static struct slice trimmed(struct slice text)
{
	while (text.length && (*text.at == ' ' || *text.at == '\t'))
		text.at++, text.length--;
	while (text.length && (text.at[text.length - 1] == ' ' || text.at[text.length - 1] == '\t'))
		text.length--;
	return text;
}

/* Takes the next member of a comma list off `rest`; 0 at its end. */
static int next_member(struct slice *rest, struct slice *member)
{
	if (rest->length == 0)
		return 0;
	const uint8_t *comma = memchr(rest->at, ',', rest->length);
	uint32_t length = comma ? (uint32_t)(comma - rest->at) : rest->length;
	*member = trimmed((struct slice){rest->at, length});
	rest->at += length + (comma != NULL);
	rest->length -= length + (comma != NULL);
	return 1;
}

/* Takes the next line, its CRLF excluded, off `rest`. 1: a line; 0: not complete; -1: a bare CR or LF or a control byte in it. */
static int next_line(struct slice *rest, struct slice *line)
{
	for (uint32_t i = 0; i < rest->length; i++) {
		uint8_t byte = rest->at[i];
		if (byte == '\r') {
			if (i + 1 == rest->length)
				return 0;
			if (rest->at[i + 1] != '\n')
				return -1;
			*line = (struct slice){rest->at, i};
			rest->at += i + 2;
			rest->length -= i + 2;
			return 1;
		}
		if ((byte < 0x20 && byte != '\t') || byte == 0x7f)
			return -1;
	}
	return 0;
}

/* ---- fields ---- */

static int read_length(struct slice value, struct fields *fields, struct frame *out)
{
	uint64_t length = 0;
	if (value.length == 0 || value.length > 18)
		return bad(out, 400, "Content-Length is not a number we take");
	for (uint32_t i = 0; i < value.length; i++) {
		if (value.at[i] < '0' || value.at[i] > '9')
			return bad(out, 400, "Content-Length is not a number");
		length = length * 10 + (value.at[i] - '0');
	}
	if (fields->lengths++ && fields->length != length)
		return bad(out, 400, "two Content-Lengths disagree");
	fields->length = length;
	return 1;
}

static int read_codings(struct slice value, struct fields *fields, struct frame *out)
{
	struct slice coding;
	if (value.length == 0 || value.at[value.length - 1] == ',')
		return bad(out, 400, "Transfer-Encoding has an empty member");
	while (next_member(&value, &coding)) {
		if (fields->chunked)
			return bad(out, 400, "chunked is not the last transfer coding, once");
		fields->codings++;
		if (equals(coding, "chunked"))
			fields->chunked = 1;
		else
			return bad(out, is_token(coding) ? 501 : 400, "this transfer coding is not known");
	}
	return 1;
}

static void read_connection(struct slice value, struct fields *fields)
{
	struct slice option;
	while (next_member(&value, &option)) {
		fields->close |= equals(option, "close");
		fields->keep_alive |= equals(option, "keep-alive");
		fields->connection_upgrade |= equals(option, "upgrade");
	}
}

/* HTTP/2 without TLS, which is no switch to opaque bytes but to requests that nobody would see. */
static int offers_http2(struct slice value)
{
	struct slice protocol;
	while (next_member(&value, &protocol))
		if (protocol.length >= 3 && strncasecmp((const char *)protocol.at, "h2c", 3) == 0)
			return 1;
	return 0;
}

static int read_field(struct slice line, struct fields *fields, struct frame *out)
{
	const uint8_t *colon = memchr(line.at, ':', line.length);
	if (*line.at == ' ' || *line.at == '\t')
		return bad(out, 400, "a field is folded over two lines");
	if (!colon)
		return bad(out, 400, "a field has no colon");
	struct slice name = {line.at, (uint32_t)(colon - line.at)};
	struct slice value = trimmed((struct slice){colon + 1, line.length - name.length - 1});
	if (!is_token(name))
		return bad(out, 400, "a field's name is malformed");
	if (equals(name, "host")) {
		fields->hosts++;
		fields->host = value;
	} else if (equals(name, "content-length")) {
		return read_length(value, fields, out);
	} else if (equals(name, "transfer-encoding")) {
		return read_codings(value, fields, out);
	} else if (equals(name, "connection")) {
		read_connection(value, fields);
	} else if (equals(name, "upgrade")) {
		fields->upgrades++;
		fields->http2 |= offers_http2(value);
	} else if (equals(name, "expect")) {
		fields->expect_continue |= equals(value, "100-continue");
	}
	return 1;
}

/* Reads every field up to the blank line. 1: complete; 0: `out` says what else. */
static int read_fields(struct slice rest, uint32_t length, const uint8_t *start, struct fields *fields, struct frame *out)
{
	struct slice line;
	for (uint32_t count = 0;; count++) {
		int got = next_line(&rest, &line);
		if (got < 0)
			return bad(out, 400, "a bare CR, LF or control byte in the head");
		if (got == 0)
			return length >= HEAD_MAX ? bad(out, 431, "the head is too long") : 0;
		if (line.length == 0)
			break;
		if (count == HEAD_FIELDS_MAX)
			return bad(out, 431, "the head has too many fields");
		if (!read_field(line, fields, out))
			return 0;
	}
	out->head_length = (uint32_t)(rest.at - start);
	if (out->head_length > HEAD_MAX)
		return bad(out, 431, "the head is too long");
	if (fields->codings && fields->lengths)
		return bad(out, 400, "both Transfer-Encoding and Content-Length");
	return 1;
}

/* ---- requests ---- */

static int is_version(struct slice version, uint8_t *minor)
{
	if (version.length != 8 || memcmp(version.at, "HTTP/1.", 7) != 0 || version.at[7] < '0' || version.at[7] > '1')
		return 0;
	*minor = version.at[7] - '0';
	return 1;
}

static int is_other_version(struct slice version)
{
	return version.length == 8 && memcmp(version.at, "HTTP/", 5) == 0 && version.at[5] >= '0' && version.at[5] <= '9' &&
	       version.at[6] == '.' && version.at[7] >= '0' && version.at[7] <= '9';
}

/* Cuts "METHOD target HTTP/1.x" at its two single spaces. */
static int read_request_line(struct slice line, struct slice *method, struct slice *target, uint8_t *minor, struct frame *out)
{
	const uint8_t *first = memchr(line.at, ' ', line.length);
	if (!first)
		return bad(out, 400, bad_line);
	*method = (struct slice){line.at, (uint32_t)(first - line.at)};
	uint32_t left = line.length - method->length - 1;
	const uint8_t *second = memchr(first + 1, ' ', left);
	if (!second || second == first + 1)
		return bad(out, 400, bad_line);
	*target = (struct slice){first + 1, (uint32_t)(second - first - 1)};
	struct slice version = {second + 1, left - target->length - 1};
	if (!is_token(*method))
		return bad(out, 400, bad_line);
	for (uint32_t i = 0; i < target->length; i++)
		if (target->at[i] <= 0x20 || target->at[i] >= 0x7f)
			return bad(out, 400, "the target has a byte no URL has");
	if (!is_version(version, minor))
		return bad(out, is_other_version(version) ? 505 : 400, "not HTTP/1.0 or HTTP/1.1");
	return 1;
}

/* "http://host/…": the authority, or an empty slice where the target isn't absolute. */
static struct slice authority_of(struct slice target)
{
	struct slice none = {target.at, 0};
	uint32_t scheme = 0;
	if (target.length > 7 && strncasecmp((const char *)target.at, "http://", 7) == 0)
		scheme = 7;
	else if (target.length > 8 && strncasecmp((const char *)target.at, "https://", 8) == 0)
		scheme = 8;
	else
		return none;
	struct slice authority = {target.at + scheme, 0};
	while (scheme + authority.length < target.length && !strchr("/?#", authority.at[authority.length]))
		authority.length++;
	return authority;
}

static int is_port(struct slice text)
{
	for (uint32_t i = 0; i < text.length; i++)
		if (text.at[i] < '0' || text.at[i] > '9')
			return 0;
	return text.length <= 5;
}

/* The host is one that policy_canonical_host() reads, with nothing but digits for a port. */
static int is_host(struct slice host)
{
	char canonical[HOST_MAX + 1];
	const uint8_t *end = host.at + host.length, *colon = end;
	if (host.length == 0 || host.length > HOST_MAX)
		return 0;
	while (colon > host.at && colon[-1] != ':' && colon[-1] != ']')
		colon--;
	if (colon > host.at && colon[-1] == ':' && !is_port((struct slice){colon, (uint32_t)(end - colon)}))
		return 0;
	if (*host.at != '[' && colon > host.at && memchr(host.at, ':', (size_t)(colon - host.at - 1)))
		return 0;
	return policy_canonical_host((const char *)host.at, host.length, canonical) > 0;
}

static int read_host(struct slice target, const struct fields *fields, uint8_t minor, struct frame *out)
{
	struct slice authority = authority_of(target), host = fields->host;
	if (fields->hosts > 1)
		return bad(out, 400, "two Host fields");
	if (fields->hosts == 0 && minor == 1)
		return bad(out, 400, "no Host field");
	if (fields->hosts && !is_host(host))
		return bad(out, 400, "the Host field is malformed");
	if (authority.length) {
		if (!is_host(authority))
			return bad(out, 400, "the target's host is malformed");
		if (fields->hosts && (authority.length != host.length ||
		                      strncasecmp((const char *)authority.at, (const char *)host.at, host.length) != 0))
			return bad(out, 400, "the target's host and the Host field disagree");
		host = authority;
	}
	out->host_length = host.length;
	memcpy(out->host, host.at ? (const char *)host.at : "", host.length);
	out->host[host.length] = 0;
	return 1;
}

/* Asterisk form belongs to OPTIONS, authority form to CONNECT (RFC 9112 section 3.2). */
static int is_target_form_legal(struct slice method, struct slice target, int is_absolute)
{
	if (equals(method, "CONNECT"))
		return is_host(target);
	if (target.length == 1 && *target.at == '*')
		return equals(method, "OPTIONS");
	return is_absolute || *target.at == '/';
}

static void set_body(const struct fields *fields, struct frame *out)
{
	if (fields->codings) {
		out->body = BODY_CHUNKED;
	} else if (fields->lengths && fields->length) {
		out->body = BODY_LENGTH;
		out->body_length = fields->length;
	}
}

void frame_request(const uint8_t *bytes, uint32_t length, struct frame *out)
{
	struct slice rest = {bytes, length}, line, method, target;
	struct fields fields = {0};
	uint8_t minor = 0;
	memset(out, 0, sizeof *out);
	int got = next_line(&rest, &line);
	if (got == 0 && length >= HEAD_MAX)
		bad(out, 431, "the request line is too long");
	if (got < 0)
		bad(out, 400, bad_line);
	if (got <= 0 || !read_request_line(line, &method, &target, &minor, out) ||
	    !read_fields(rest, length, bytes, &fields, out) || !read_host(target, &fields, minor, out))
		return;
	int is_absolute = authority_of(target).length > 0;
	if (!is_target_form_legal(method, target, is_absolute)) {
		bad(out, 400, "the target has no form this method takes");
		return;
	}
	if (minor == 0 && fields.codings) {
		bad(out, 400, "Transfer-Encoding in HTTP/1.0");
		return;
	}
	set_body(&fields, out);
	out->is_head = method.length == 4 && memcmp(method.at, "HEAD", 4) == 0;
	out->is_connect = equals(method, "CONNECT");
	out->keep_alive = !fields.close && (minor == 1 || fields.keep_alive);
	out->expect_continue = minor == 1 && fields.expect_continue;
	out->upgrade = fields.upgrades && fields.connection_upgrade;
	int followed = minor == 1 && !is_absolute && !out->is_connect && !equals(method, "TRACE") && !fields.http2;
	out->status = followed ? FRAME_PLAIN : FRAME_LEGAL;
}

/* ---- responses ---- */

static int read_status_line(struct slice line, uint8_t *minor, struct frame *out)
{
	if (line.length < 12 || !is_version((struct slice){line.at, 8}, minor) || line.at[8] != ' ')
		return bad(out, 502, bad_line);
	for (int i = 9; i < 12; i++) {
		if (line.at[i] < '0' || line.at[i] > '9')
			return bad(out, 502, bad_line);
		out->status_code = (uint16_t)(out->status_code * 10 + line.at[i] - '0');
	}
	if (out->status_code < 100 || (line.length > 12 && line.at[12] != ' '))
		return bad(out, 502, bad_line);
	return 1;
}

void frame_response(const uint8_t *bytes, uint32_t length, int to_head, struct frame *out)
{
	struct slice rest = {bytes, length}, line;
	struct fields fields = {0};
	uint8_t minor = 0;
	memset(out, 0, sizeof *out);
	int got = next_line(&rest, &line);
	if (got < 0 || (got == 0 && length >= HEAD_MAX))
		bad(out, 502, bad_line);
	if (got <= 0)
		return;
	if (!read_status_line(line, &minor, out) || !read_fields(rest, length, bytes, &fields, out)) {
		out->answer = out->status == FRAME_BAD ? 502 : 0;
		return;
	}
	if (minor == 0 && fields.codings) {
		bad(out, 502, "Transfer-Encoding in HTTP/1.0");
		return;
	}
	int is_interim = out->status_code < 200, is_bare = out->status_code == 204 || out->status_code == 304;
	out->keep_alive = !fields.close && (minor == 1 || fields.keep_alive);
	out->upgrade = out->status_code == 101;
	if (!to_head && !is_interim && !is_bare) {
		set_body(&fields, out);
		if (!fields.codings && !fields.lengths) {
			out->body = BODY_UNTIL_CLOSE;
			out->keep_alive = 0;
		}
	}
	out->status = minor == 1 ? FRAME_PLAIN : FRAME_LEGAL;
}

/* ---- chunked bodies (RFC 9112 section 7.1) ---- */

enum { SIZE, SIZE_MORE, EXTENSION, SIZE_LF, DATA, DATA_CR, DATA_LF, TRAILER_START, TRAILER, TRAILER_LF, END_LF };

#define EXTENSION_MAX 1024 /* bytes of one chunk's extensions */

static int hex(uint8_t byte)
{
	if (byte >= '0' && byte <= '9')
		return byte - '0';
	byte |= 0x20;
	return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : -1;
}

static int is_line_byte(uint8_t byte)
{
	return (byte >= 0x20 && byte != 0x7f) || byte == '\t';
}

/* One byte of framing. Returns the next state, -1 where it can't stand. */
static int next_state(struct chunks *state, uint8_t byte)
{
	switch (state->state) {
	case SIZE:
	case SIZE_MORE:
		if (hex(byte) >= 0) {
			if (state->remaining >> 58)
				return -1;
			state->remaining = state->remaining * 16 + (uint64_t)hex(byte);
			return SIZE_MORE;
		}
		if (state->state == SIZE)
			return -1;
		state->seen = 0;
		return byte == ';' ? EXTENSION : byte == '\r' ? SIZE_LF : -1;
	case EXTENSION:
		if (byte == '\r')
			return SIZE_LF;
		return is_line_byte(byte) && ++state->seen <= EXTENSION_MAX ? EXTENSION : -1;
	case SIZE_LF:
		state->seen = 0;
		return byte != '\n' ? -1 : state->remaining ? DATA : TRAILER_START;
	case DATA_CR:
		return byte == '\r' ? DATA_LF : -1;
	case DATA_LF:
		return byte == '\n' ? SIZE : -1;
	case TRAILER_START:
		if (byte == '\r')
			return END_LF;
		return is_token_byte(byte) && ++state->seen <= HEAD_MAX ? TRAILER : -1;
	case TRAILER:
		if (byte == '\r')
			return TRAILER_LF;
		return is_line_byte(byte) && ++state->seen <= HEAD_MAX ? TRAILER : -1;
	case TRAILER_LF:
		return byte == '\n' ? TRAILER_START : -1;
	default: /* END_LF */
		state->done = byte == '\n';
		return byte == '\n' ? END_LF : -1;
	}
}

uint64_t chunks_ahead(const struct chunks *state)
{
	return state->state == DATA ? state->remaining : 0;
}

void chunks_skip(struct chunks *state, uint64_t count)
{
	state->remaining -= count;
	if (count && state->remaining == 0)
		state->state = DATA_CR;
}

uint32_t chunks_eat(struct chunks *state, const uint8_t *bytes, uint32_t length)
{
	uint32_t eaten = 0;
	while (eaten < length && !state->done && !state->bad) {
		if (state->state == DATA) {
			uint64_t run = length - eaten < state->remaining ? length - eaten : state->remaining;
			chunks_skip(state, run);
			eaten += (uint32_t)run;
			continue;
		}
		int next = next_state(state, bytes[eaten]);
		if (next < 0) {
			state->bad = 1;
			break;
		}
		state->state = (uint32_t)next;
		eaten++;
	}
	return eaten;
}
