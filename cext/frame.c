/* SPDX-License-Identifier: Apache-2.0
 *
 * Frames HTTP/1.1 requests (RFC 9112). Owns nothing. frame.h lists the faults that are refused. Called by sniff, judge,
 * follow and Python.
 */
#include <string.h>
#include <strings.h>

#include "frame.h"
#include "slice.h"

static const char *const bad_line = "the first line is malformed";

static enum reading bad(struct frame *out, uint32_t answer, const char *reason)
{
	out->answer = answer;
	out->reason = reason;
	return READING_BAD;
}

/* Finds the end of the line that begins at `head->line`. Returns READING_BAD for a bare CR or LF or a control byte. */
static enum reading find_line(struct head *head, const uint8_t *bytes, uint32_t length, struct slice *line)
{
	for (; head->searched < length; head->searched++) {
		uint8_t byte = bytes[head->searched];
		if (byte == '\r') {
			if (head->searched + 1 == length)
				return READING_MORE;
			if (bytes[head->searched + 1] != '\n')
				return READING_BAD;
			*line = (struct slice){bytes + head->line, head->searched - head->line};
			return READING_WHOLE;
		}
		if ((byte < 0x20 && byte != '\t') || byte == 0x7f)
			return READING_BAD;
	}
	return READING_MORE;
}

static void pass_line(struct head *head)
{
	head->searched += 2;
	head->line = head->searched;
	head->lines++;
}

/* ---- fields ---- */

static enum reading read_length(struct slice value, struct head *head, struct frame *out)
{
	uint64_t length = 0;
	if (value.length == 0 || value.length > 18)
		return bad(out, 400, "Content-Length is empty or longer than 18 digits");
	for (uint32_t i = 0; i < value.length; i++) {
		if (value.at[i] < '0' || value.at[i] > '9')
			return bad(out, 400, "Content-Length is not a decimal number");
		length = length * 10 + (value.at[i] - '0');
	}
	if (head->lengths++ && head->content_length != length)
		return bad(out, 400, "the Content-Length fields disagree");
	head->content_length = length;
	return READING_WHOLE;
}

static enum reading read_codings(struct slice value, struct head *head, struct frame *out)
{
	struct slice coding;
	if (value.length == 0 || value.at[value.length - 1] == ',')
		return bad(out, 400, "Transfer-Encoding is empty or ends with a comma");
	while (next_member(&value, &coding)) {
		if (head->chunked)
			return bad(out, 400, "chunked is repeated or is not the last transfer coding");
		head->codings++;
		if (equals(coding, "chunked"))
			head->chunked = 1;
		else
			return bad(out, is_token(coding) ? 501 : 400, "Transfer-Encoding has an unknown coding");
	}
	return READING_WHOLE;
}

static void read_connection(struct slice value, struct head *head)
{
	struct slice option;
	while (next_member(&value, &option)) {
		head->close |= equals(option, "close");
		head->keep_alive |= equals(option, "keep-alive");
		head->connection_upgrade |= equals(option, "upgrade");
	}
}

/* After an upgrade to HTTP/2 without TLS, further requests on the connection could no longer be followed. */
static int offers_http2(struct slice value)
{
	struct slice protocol;
	while (next_member(&value, &protocol))
		if (protocol.length >= 3 && strncasecmp((const char *)protocol.at, "h2c", 3) == 0)
			return 1;
	return 0;
}

static enum reading read_field(struct slice line, const uint8_t *bytes, struct head *head, struct frame *out)
{
	const uint8_t *colon = memchr(line.at, ':', line.length);
	if (*line.at == ' ' || *line.at == '\t')
		return bad(out, 400, "a field is folded over several lines");
	if (!colon)
		return bad(out, 400, "a field line has no colon");
	struct slice name = {line.at, (uint32_t)(colon - line.at)};
	struct slice value = trimmed((struct slice){colon + 1, line.length - name.length - 1});
	if (!is_token(name))
		return bad(out, 400, "a field name is malformed");
	if (equals(name, "host")) {
		head->hosts++;
		head->host_at = (uint32_t)(value.at - bytes);
		head->host_length = value.length;
	} else if (equals(name, "content-length")) {
		return read_length(value, head, out);
	} else if (equals(name, "transfer-encoding")) {
		return read_codings(value, head, out);
	} else if (equals(name, "connection")) {
		read_connection(value, head);
	} else if (equals(name, "upgrade")) {
		head->upgrades++;
		head->http2 |= offers_http2(value);
	} else if (equals(name, "expect")) {
		head->expect_continue |= equals(value, "100-continue");
	}
	return READING_WHOLE;
}

/* Reads complete field lines, up to the blank line. */
static enum reading read_fields(struct head *head, const uint8_t *bytes, uint32_t length, struct frame *out)
{
	struct slice line;
	for (;;) {
		enum reading found = find_line(head, bytes, length, &line);
		if (found == READING_BAD)
			return bad(out, 400, "the head has a bare CR, a bare LF or a control byte");
		if (found == READING_MORE)
			return length >= HEAD_MAX ? bad(out, 431, "the head is too long") : READING_MORE;
		if (line.length == 0)
			break;
		if (head->lines > HEAD_FIELDS_MAX)
			return bad(out, 431, "the head has too many fields");
		if (read_field(line, bytes, head, out) == READING_BAD)
			return READING_BAD;
		pass_line(head);
	}
	/* The blank line isn't passed, so that another call with the same bytes returns the same result. */
	out->head_length = head->searched + 2;
	if (out->head_length > HEAD_MAX)
		return bad(out, 431, "the head is too long");
	if (head->codings && head->lengths)
		return bad(out, 400, "the head has both Transfer-Encoding and Content-Length");
	return READING_WHOLE;
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

/* Splits "METHOD target HTTP/1.x" at its two single spaces. */
static enum reading read_request_line(struct slice line, struct head *head, struct frame *out)
{
	const uint8_t *first = memchr(line.at, ' ', line.length);
	if (!first)
		return bad(out, 400, bad_line);
	struct slice method = {line.at, (uint32_t)(first - line.at)};
	uint32_t left = line.length - method.length - 1;
	const uint8_t *second = memchr(first + 1, ' ', left);
	if (!second || second == first + 1)
		return bad(out, 400, bad_line);
	struct slice target = {first + 1, (uint32_t)(second - first - 1)};
	struct slice version = {second + 1, left - target.length - 1};
	if (!is_token(method))
		return bad(out, 400, bad_line);
	for (uint32_t i = 0; i < target.length; i++)
		if (target.at[i] <= 0x20 || target.at[i] >= 0x7f)
			return bad(out, 400, "the request target has a byte that a URL cannot contain");
	if (!is_version(version, &head->minor))
		return bad(out, is_other_version(version) ? 505 : 400, "the version is not HTTP/1.0 or HTTP/1.1");
	head->method_length = method.length;
	head->target_at = method.length + 1;
	head->target_length = target.length;
	return READING_WHOLE;
}

/* Returns the authority of an absolute target, "http://authority/…", or an empty slice if the target isn't absolute. */
static struct slice absolute_authority(struct slice target)
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

/* Returns 1 if host_canonical() accepts the host and its port, if any, is at most 5 digits. */
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
	return host_canonical((const char *)host.at, host.length, canonical) > 0;
}

/* Returns the text without its port, if that is `port`, empty, or any where `port` is NULL. */
static struct slice without_port(struct slice text, const char *port)
{
	uint32_t end = text.length;
	while (end > 0 && text.at[end - 1] >= '0' && text.at[end - 1] <= '9')
		end--;
	struct slice found = {text.at + end, text.length - end};
	if (end > 1 && text.at[end - 1] == ':' && (!port || found.length == 0 || equals(found, port)))
		text.length = end - 1;
	return text;
}

/* Returns 1 if the Host field names the target's authority. */
static int is_same_host(struct slice authority, struct slice host, struct slice target, int is_connect)
{
	const char *port = is_connect ? NULL : (target.at[4] | 0x20) == 's' ? "443" : "80";
	authority = without_port(authority, port);
	host = without_port(host, port);
	return authority.length == host.length && strncasecmp((const char *)authority.at, (const char *)host.at, host.length) == 0;
}

static enum reading read_host(const struct head *head, const uint8_t *bytes, struct slice target, int is_connect,
                              struct frame *out)
{
	struct slice authority = is_connect ? target : absolute_authority(target);
	struct slice host = {bytes + head->host_at, head->host_length};
	if (head->hosts > 1)
		return bad(out, 400, "the head has more than one Host field");
	if (head->hosts == 0 && head->minor == 1)
		return bad(out, 400, "the Host field is missing");
	if (head->hosts && !is_host(host))
		return bad(out, 400, "the Host field is malformed");
	if (authority.length) {
		if (!is_host(authority))
			return bad(out, 400, "the host in the request target is malformed");
		if (head->hosts && !is_same_host(authority, host, target, is_connect))
			return bad(out, 400, "the request target and the Host field name different hosts");
		host = authority;
	}
	out->host_length = host.length;
	memcpy(out->host, host.at, host.length);
	out->host[host.length] = 0;
	return READING_WHOLE;
}

/* Asterisk form is only for OPTIONS, authority form only for CONNECT (RFC 9112 section 3.2). */
static int is_target_form_legal(struct slice method, struct slice target, int is_absolute)
{
	if (equals(method, "CONNECT"))
		return is_host(target);
	if (target.length == 1 && *target.at == '*')
		return equals(method, "OPTIONS");
	return is_absolute || *target.at == '/';
}

static void set_body(const struct head *head, struct frame *out)
{
	if (head->codings) {
		out->body = BODY_CHUNKED;
	} else if (head->lengths && head->content_length) {
		out->body = BODY_LENGTH;
		out->body_length = head->content_length;
	}
}

static int persists(const struct head *head)
{
	return !head->close && (head->minor == 1 || head->keep_alive);
}

/* Checks and sets the whole request, after its first line and fields were read. */
static enum reading set_request(const struct head *head, const uint8_t *bytes, struct frame *out)
{
	struct slice method = {bytes, head->method_length}, target = {bytes + head->target_at, head->target_length};
	int is_absolute = absolute_authority(target).length > 0, is_connect = equals(method, "CONNECT");
	if (read_host(head, bytes, target, is_connect, out) == READING_BAD)
		return READING_BAD;
	if (!is_target_form_legal(method, target, is_absolute))
		return bad(out, 400, "the form of the request target is not valid for this method");
	if (head->minor == 0 && head->codings)
		return bad(out, 400, "HTTP/1.0 does not allow Transfer-Encoding");
	set_body(head, out);
	out->method_length = head->method_length;
	out->target_at = head->target_at;
	out->target_length = head->target_length;
	out->is_head = method.length == 4 && memcmp(method.at, "HEAD", 4) == 0;
	out->is_connect = (uint8_t)is_connect;
	out->keep_alive = persists(head);
	out->expect_continue = head->minor == 1 && head->expect_continue;
	out->upgrade = head->upgrades && head->connection_upgrade;
	out->is_plain = head->minor == 1 && !is_connect && !equals(method, "TRACE") && !head->http2;
	return READING_WHOLE;
}

static enum reading first_request_line(struct head *head, const uint8_t *bytes, uint32_t length, struct frame *out)
{
	struct slice line;
	enum reading found = find_line(head, bytes, length, &line);
	if (found == READING_BAD)
		return bad(out, 400, bad_line);
	if (found == READING_MORE)
		return length >= HEAD_MAX ? bad(out, 431, "the request line is too long") : READING_MORE;
	if (read_request_line(line, head, out) == READING_BAD)
		return READING_BAD;
	pass_line(head);
	return READING_WHOLE;
}

enum reading frame_request(struct head *head, const uint8_t *bytes, uint32_t length, struct frame *out)
{
	memset(out, 0, sizeof *out);
	enum reading reading = head->lines ? READING_WHOLE : first_request_line(head, bytes, length, out);
	if (reading == READING_WHOLE)
		reading = read_fields(head, bytes, length, out);
	return reading == READING_WHOLE ? set_request(head, bytes, out) : reading;
}

int frame_is_for_proxy(const uint8_t *bytes, uint32_t length)
{
	uint32_t at = 0;
	while (at < length && is_any_blank(bytes[at]))
		at++;
	while (at < length && !is_any_blank(bytes[at]))
		at++;
	while (at < length && is_any_blank(bytes[at]))
		at++;
	return at == length || (bytes[at] != '/' && bytes[at] != '*');
}
