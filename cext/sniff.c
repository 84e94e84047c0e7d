/* SPDX-License-Identifier: Apache-2.0
 *
 * Recognises a flow's first bytes. Owns nothing; see sniff.h.
 */
#include <string.h>
#include <strings.h>

#include "frame.h"
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

/* RFC 9112 section 3 lets a lenient server take HT, VT, FF and a bare CR for a space; Python's http.server takes all that
 * Latin-1 calls a space. */
static int is_blank(uint8_t byte)
{
	return byte == ' ' || (byte >= '\t' && byte <= '\r') || (byte >= 0x1c && byte <= 0x1f) || byte == 0x85 || byte == 0xa0;
}

static int is_letter(uint8_t byte)
{
	byte |= 0x20;
	return byte >= 'a' && byte <= 'z';
}

static int is_method_byte(uint8_t byte)
{
	return is_letter(byte) || (byte >= '0' && byte <= '9') || (byte && strchr("!#$%&'*+-.^_`|~", byte) != NULL);
}

/* "GET /" or "get http:": without a version it is HTTP/0.9, to a server that is old or lenient enough. */
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

/* A request line as the most lenient server reads it: blanks before it, a method in any case, blanks, and "HTTP/" at last.
 * frame_request() refuses what isn't strict; but it must come before it, or a handler could be walked round. A line without
 * all this is another protocol's command: "HELO world", "USER me". */
static enum answer is_http1(const uint8_t *bytes, uint32_t length)
{
	uint32_t start = 0;
	while (start < length && is_blank(bytes[start]))
		start++;
	uint32_t at = start;
	while (at < length && at - start <= METHOD_MAX && is_method_byte(bytes[at]))
		at++;
	if (at - start > METHOD_MAX)
		return NO;
	if (at == length)
		return MORE;
	uint32_t method = at - start;
	if (method == 0 || !is_blank(bytes[at]))
		return NO;
	while (at < length && is_blank(bytes[at]) && bytes[at] != '\n')
		at++;
	uint32_t target = at;
	while (at < length && bytes[at] != '\n') {
		if (bytes[at] == 0 || bytes[at] == 0x7f)
			return NO;
		at++;
	}
	if (at == length)
		return MORE;
	for (uint32_t i = target; i + 5 <= at; i++)
		if (strncasecmp((const char *)bytes + i, "HTTP/", 5) == 0 && is_blank(bytes[i - 1]))
			return YES;
	return is_bare_request(bytes + start, method, bytes + target, at - target) ? YES : NO;
}

static void read_http(const uint8_t *bytes, uint32_t length, int final, struct opening *out)
{
	struct frame frame;
	frame_request(bytes, length, &frame);
	if (frame.status == FRAME_MORE && !final)
		return;
	out->protocol = PROTOCOL_HTTP;
	out->head_length = frame.head_length;
	out->ambiguous = frame.status != FRAME_PLAIN;
	out->host_length = frame.host_length;
	memcpy(out->host, frame.host, sizeof out->host);
}

/* ---- TLS (RFC 8446 section 4.1.2, RFC 6066 section 3) ---- */

/* A run of bytes read in order; what is not there yet sets `short_`. */
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

/* A vector with a length prefix of `width` bytes. */
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

/* Collects the handshake message out of its records into `out`. The hello's length, 0: more bytes, -1: it is malformed. */
static int gather_hello(const uint8_t *bytes, uint32_t length, uint8_t *out)
{
	uint32_t have = 0, at = 0;
	while (at + 5 <= length) {
		uint32_t record = (uint32_t)bytes[at + 3] << 8 | bytes[at + 4];
		if (bytes[at] != 22 || bytes[at + 1] != 3 || record > 16384 + 256)
			return -1;
		uint32_t there = length - at - 5 < record ? length - at - 5 : record;
		memcpy(out + have, bytes + at + 5, there);
		have += there; /* an empty record adds nothing: OpenSSL skips it as well */
		if (have && out[0] != 1)
			return -1;
		if (have >= 4) {
			uint32_t need = 4 + ((uint32_t)out[1] << 16 | (uint32_t)out[2] << 8 | out[3]);
			if (need > OPENING_MAX)
				return -1;
			if (have >= need)
				return (int)need;
		}
		at += 5 + there;
		if (there < record)
			break;
	}
	return 0;
}

/* A handshake record (its first three bytes tell), or the hello of SSL 2 that some servers still take (RFC 5246 appendix E.2). */
static enum answer begins_as_tls(const uint8_t *bytes, uint32_t length)
{
	static const int record[] = {22, 3, -1}, old[] = {-1, -1, 1, 3};
	int is_record = length < 3 || bytes[2] <= 4, is_old = bytes[0] >= 0x80 && bytes[0] < 0xc0; /* telnet begins with 0xff */
	for (uint32_t i = 0; i < 3 && i < length; i++)
		is_record &= record[i] < 0 || bytes[i] == record[i];
	for (uint32_t i = 0; i < 4 && i < length; i++)
		is_old &= old[i] < 0 || bytes[i] == old[i];
	if (!is_record && !is_old)
		return NO;
	return length < (is_record ? 3 : 4) ? MORE : YES;
}

/* TLS whose hello is malformed, or longer than we look, is TLS all the same, of a host that isn't known. */
static enum answer is_tls(const uint8_t *bytes, uint32_t length, int final, struct opening *out)
{
	uint8_t message[OPENING_MAX];
	enum answer begins = begins_as_tls(bytes, length);
	if (begins != YES || bytes[0] != 22)
		return begins;
	int size = gather_hello(bytes, length, message);
	if (size == 0 && !final)
		return MORE;
	if (size <= 0 || !read_client_hello((struct cursor){message + 4, (uint32_t)size - 4}, out)) {
		out->host_length = 0;
		out->host[0] = 0;
	}
	return YES;
}

void sniff(const uint8_t *bytes, uint32_t length, int final, struct opening *out)
{
	memset(out, 0, sizeof *out);
	if (length > OPENING_MAX)
		length = OPENING_MAX;
	final |= length == OPENING_MAX;
	enum answer http2 = length ? is_http2(bytes, length) : MORE, http1 = length ? is_http1(bytes, length) : MORE;
	enum answer tls = length ? is_tls(bytes, length, final, out) : MORE;
	if (http2 == YES)
		out->protocol = PROTOCOL_HTTP2;
	else if (tls == YES)
		out->protocol = PROTOCOL_TLS;
	else if (http1 == YES && http2 == NO)
		read_http(bytes, length, final, out);
	else if (final && http1 == MORE && length > METHOD_MAX)
		read_http(bytes, length, 1, out); /* a request line that never ended: Python answers it with 431 or 400 */
	else if (final || (http1 == NO && http2 == NO && tls == NO))
		out->protocol = PROTOCOL_OPAQUE;
}
