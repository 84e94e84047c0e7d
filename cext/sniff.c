/* SPDX-License-Identifier: Apache-2.0
 *
 * Recognises a flow's first bytes. Owns nothing; sniff.h names the callers.
 */
#include <string.h>
#include <strings.h>

#include "frame.h"
#include "slice.h"
#include "sniff.h"

#define METHOD_MAX 32 /* bytes; the longest registered method has 17 */

static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"; /* RFC 9113 section 3.4 */

enum answer { NO, YES, MORE };

/* ---- HTTP ---- */

static enum answer is_http2(const uint8_t *bytes, uint32_t length)
{
	uint32_t whole = sizeof preface - 1;
	if (memcmp(bytes, preface, length < whole ? length : whole) != 0)
		return NO;
	return length < whole ? MORE : YES;
}

static int is_letter(uint8_t byte)
{
	byte |= 0x20;
	return byte >= 'a' && byte <= 'z';
}

/* Returns 1 for a byte that no request line has, not even a lenient server's: a control byte that is no blank. */
static int is_binary(uint8_t byte)
{
	return (byte < 0x20 && !is_any_blank(byte)) || byte == 0x7f;
}

static int is_method_byte(uint8_t byte)
{
	return is_letter(byte) || (byte >= '0' && byte <= '9') || (byte && strchr("!#$%&'*+-.^_`|~", byte) != NULL);
}

/* "GET /" or "get http:" without a version: an old or lenient server accepts it as HTTP/0.9. */
static int is_bare_request(const uint8_t *method, uint32_t length, const uint8_t *target, uint32_t left)
{
	static const char *const methods[] = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"};
	if (left == 0 || (*target != '/' && (left < 5 || strncasecmp((const char *)target, "http:", 5) != 0)))
		return 0;
	for (uint32_t i = 0; i < sizeof methods / sizeof *methods; i++)
		if (strlen(methods[i]) == length && strncasecmp((const char *)method, methods[i], length) == 0)
			return 1;
	return 0;
}

/* Parses the line after its method: blanks, then a target that extends to the end of the line. */
static enum answer is_target(struct sniffing *so_far, const uint8_t *bytes, uint32_t length)
{
	uint32_t at = so_far->line;
	while (!so_far->target && at < length && is_any_blank(bytes[at]) && bytes[at] != '\n')
		at++;
	if (!so_far->target && at < length)
		so_far->target = at;
	while (at < length && bytes[at] != '\n' && !is_binary(bytes[at]))
		at++;
	so_far->line = at;
	if (at == length)
		return MORE;
	if (bytes[at] != '\n')
		return NO;
	for (uint32_t i = so_far->target; i + 5 <= at; i++)
		if (strncasecmp((const char *)bytes + i, "HTTP/", 5) == 0 && is_any_blank(bytes[i - 1]))
			return YES;
	const uint8_t *target = bytes + so_far->target;
	return is_bare_request(bytes + so_far->start, so_far->method, target, at - so_far->target) ? YES : NO;
}

/* Recognises a request line as the most lenient server does: blanks, a method in any case, blanks, a target and
 * "HTTP/". frame_request() refuses a line that isn't strict. But the line must be recognised as HTTP here, or it would
 * pass as opaque bytes and a lenient server would answer it, bypassing the handler. Any other line is another
 * protocol's command: "HELO world", "USER me". */
static enum answer is_http1(struct sniffing *so_far, const uint8_t *bytes, uint32_t length)
{
	if (so_far->method)
		return is_target(so_far, bytes, length);
	uint32_t at = so_far->line;
	while (at == so_far->start && at < length && is_any_blank(bytes[at]))
		so_far->start = ++at;
	while (at < length && at - so_far->start <= METHOD_MAX && is_method_byte(bytes[at]))
		at++;
	so_far->line = at;
	uint32_t method = at - so_far->start;
	if (method > METHOD_MAX)
		return NO;
	if (at == length)
		return MORE;
	if (method == 0 || !is_any_blank(bytes[at]))
		return NO;
	so_far->method = method;
	return is_target(so_far, bytes, length);
}

static enum answer is_http(struct sniffing *so_far, const uint8_t *bytes, uint32_t length)
{
	enum answer answer = so_far->is_http1 ? YES : is_http1(so_far, bytes, length);
	so_far->is_http1 = answer == YES;
	return answer;
}

static enum reading read_http(struct sniffing *so_far, const uint8_t *bytes, uint32_t length, struct opening *out)
{
	struct frame frame;
	enum reading reading = frame_request(&so_far->head, bytes, length, &frame);
	out->protocol = PROTOCOL_HTTP;
	out->head_length = frame.head_length;
	out->ambiguous = !frame.is_plain;
	out->malformed = reading != READING_WHOLE;
	out->host_length = frame.host_length;
	memcpy(out->host, frame.host, sizeof out->host);
	return reading == READING_MORE ? READING_MORE : READING_WHOLE;
}

/* ---- TLS (RFC 8446 section 4.1.2, RFC 6066 section 3) ---- */

/* Bytes that are read in order. */
struct cursor {
	const uint8_t *at;
	uint32_t left;
};

static int take(struct cursor *from, uint32_t length, struct cursor *out)
{
	if (from->left < length)
		return 0;
	*out = (struct cursor){from->at, length};
	from->at += length;
	from->left -= length;
	return 1;
}

/* Takes a vector with a length prefix of `width` bytes. Returns 0 if the bytes end before it does. */
static int take_vector(struct cursor *from, uint32_t width, struct cursor *out)
{
	uint32_t length = 0;
	struct cursor prefix;
	if (!take(from, width, &prefix))
		return 0;
	for (uint32_t i = 0; i < width; i++)
		length = length << 8 | prefix.at[i];
	return take(from, length, out);
}

static int read_server_name(struct cursor extension, struct opening *out)
{
	struct cursor list, type, name;
	if (!take_vector(&extension, 2, &list))
		return 0;
	while (list.left) {
		if (!take(&list, 1, &type) || !take_vector(&list, 2, &name))
			return 0;
		if (*type.at != 0)
			continue;
		if (out->host_length || name.left == 0 || name.left > HOST_MAX || memchr(name.at, 0, name.left))
			return 0;
		memcpy(out->host, name.at, name.left);
		out->host[name.left] = 0;
		out->host_length = name.left;
	}
	return 1;
}

static int read_alpn(struct cursor extension, struct opening *out)
{
	struct cursor list, name;
	if (!take_vector(&extension, 2, &list))
		return 0;
	while (list.left) {
		if (!take_vector(&list, 1, &name))
			return 0;
		out->http2 |= name.left == 2 && memcmp(name.at, "h2", 2) == 0;
	}
	return 1;
}

static int read_client_hello(struct cursor hello, struct opening *out)
{
	struct cursor skipped, extensions, type, extension;
	if (!take(&hello, 2 + 32, &skipped) || !take_vector(&hello, 1, &skipped) || !take_vector(&hello, 2, &skipped) ||
	    !take_vector(&hello, 1, &skipped))
		return 0;
	if (hello.left == 0)
		return 1;
	if (!take_vector(&hello, 2, &extensions) || hello.left)
		return 0;
	while (extensions.left) {
		if (!take(&extensions, 2, &type) || !take_vector(&extensions, 2, &extension))
			return 0;
		uint32_t number = (uint32_t)type.at[0] << 8 | type.at[1];
		if (number == 0 && !read_server_name(extension, out))
			return 0;
		if (number == 16 && !read_alpn(extension, out))
			return 0;
	}
	return 1;
}

/* Returns the length of the handshake message including its header, or 0 if it isn't known yet. */
static uint32_t message_length(const struct sniffing *so_far, uint32_t have)
{
	return have < 4 ? 0 : 4 + ((uint32_t)so_far->prefix[1] << 16 | (uint32_t)so_far->prefix[2] << 8 | so_far->prefix[3]);
}

/* Parses the records that arrived since the last call. Returns READING_WHOLE when their handshake message is
 * complete. */
static enum reading walk_records(struct sniffing *so_far, const uint8_t *bytes, uint32_t length)
{
	while (so_far->record + 5 <= length) {
		const uint8_t *record = bytes + so_far->record;
		uint32_t size = (uint32_t)record[3] << 8 | record[4], left = length - so_far->record - 5;
		if (record[0] != 22 || record[1] != 3 || size > 16384 + 256)
			return READING_BAD;
		uint32_t there = left < size ? left : size, have = so_far->message + there;
		for (uint32_t i = so_far->message; i < 4 && i < have; i++)
			so_far->prefix[i] = record[5 + i - so_far->message];
		if (have && so_far->prefix[0] != 1)
			return READING_BAD;
		uint32_t need = message_length(so_far, have);
		if (need > OPENING_MAX)
			return READING_BAD;
		if (need && have >= need)
			return READING_WHOLE;
		if (there < size)
			break;
		so_far->record += 5 + size; /* an empty record is skipped, as OpenSSL does */
		so_far->message = have;
	}
	return READING_MORE;
}

/* Copies `size` bytes of the handshake message out of its records. All of them must have arrived. */
static void gather(const uint8_t *bytes, uint32_t size, uint8_t *out)
{
	for (uint32_t have = 0, at = 0; have < size;) {
		uint32_t record = (uint32_t)bytes[at + 3] << 8 | bytes[at + 4];
		uint32_t some = size - have < record ? size - have : record;
		memcpy(out + have, bytes + at + 5, some);
		have += some;
		at += 5 + record;
	}
}

/* Recognises a handshake record by its first three bytes, or the SSL 2 hello that some servers still accept (RFC 5246
 * E.2). */
static enum answer begins_as_tls(const uint8_t *bytes, uint32_t length)
{
	static const int record[] = {22, 3, -1}, old[] = {-1, -1, 1, 3};
	int is_record = length < 3 || bytes[2] <= 4, is_old = bytes[0] >= 0x80 && bytes[0] < 0xc0; /* 0xff is telnet */
	for (uint32_t i = 0; i < 3 && i < length; i++)
		is_record &= record[i] < 0 || bytes[i] == record[i];
	for (uint32_t i = 0; i < 4 && i < length; i++)
		is_old &= old[i] < 0 || bytes[i] == old[i];
	if (!is_record && !is_old)
		return NO;
	return length < (is_record ? 3 : 4) ? MORE : YES;
}

/* A hello that is malformed or longer than OPENING_MAX is TLS for an unknown host. */
static enum reading read_tls(struct sniffing *so_far, const uint8_t *bytes, uint32_t length, struct opening *out)
{
	uint8_t message[OPENING_MAX];
	enum reading reading = bytes[0] == 22 ? walk_records(so_far, bytes, length) : READING_BAD;
	out->protocol = PROTOCOL_TLS;
	if (reading != READING_WHOLE)
		return reading == READING_MORE ? READING_MORE : READING_WHOLE;
	uint32_t size = message_length(so_far, 4);
	gather(bytes, size, message);
	if (!read_client_hello((struct cursor){message + 4, size - 4}, out)) {
		out->host_length = 0;
		out->host[0] = 0;
	}
	return READING_WHOLE;
}

/* No protocol is certain: sets the result in case no further byte arrives. */
static void guess(enum answer http1, uint32_t length, struct opening *out)
{
	int is_endless = http1 == MORE && length > METHOD_MAX; /* an unfinished request line: Python answers 431 or 400 */
	out->protocol = is_endless ? PROTOCOL_HTTP : PROTOCOL_OPAQUE;
	out->ambiguous = out->malformed = (uint8_t)is_endless;
}

static enum reading look(struct sniffing *so_far, const uint8_t *bytes, uint32_t length, struct opening *out)
{
	enum answer http2 = is_http2(bytes, length), tls = begins_as_tls(bytes, length), http1 = is_http(so_far, bytes, length);
	if (http2 == YES) {
		out->protocol = PROTOCOL_HTTP2;
		return READING_WHOLE;
	}
	if (tls == YES)
		return read_tls(so_far, bytes, length, out);
	if (http1 == YES && http2 == NO)
		return read_http(so_far, bytes, length, out);
	guess(http1, length, out);
	return http1 == NO && http2 == NO && tls == NO ? READING_WHOLE : READING_MORE;
}

enum reading sniff(struct sniffing *so_far, const uint8_t *bytes, uint32_t length, struct opening *out)
{
	int is_full = length >= OPENING_MAX;
	memset(out, 0, sizeof *out);
	if (length == 0) {
		out->protocol = PROTOCOL_OPAQUE;
		return READING_MORE;
	}
	enum reading reading = look(so_far, bytes, is_full ? OPENING_MAX : length, out);
	return is_full ? READING_WHOLE : reading;
}
