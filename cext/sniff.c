/* SPDX-License-Identifier: Apache-2.0
 *
 * Recognises a flow's first bytes. Owns nothing; see sniff.h.
 */
#include <stdint.h>
#include <string.h>

#include "policy.h"
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

/* "METHOD target HTTP/1.": the method in capitals, then whatever, up to the version at the line's end. A line that ends
 * otherwise, or a byte no request line has, is something else. */
static enum answer is_http1(const uint8_t *bytes, uint32_t length)
{
	uint32_t at = 0;
	while (at < length && at <= METHOD_MAX && ((bytes[at] >= 'A' && bytes[at] <= 'Z') || (at && (bytes[at] == '-' || bytes[at] == '_'))))
		at++;
	if (at == length)
		return at > METHOD_MAX ? NO : MORE;
	if (at == 0 || at > METHOD_MAX || bytes[at] != ' ')
		return NO;
	uint32_t target = ++at;
	while (at < length && bytes[at] != '\n' && bytes[at] != '\r') {
		if (bytes[at] == 0 || bytes[at] == 0x7f)
			return NO;
		at++;
	}
	if (at == length)
		return MORE;
	/* A line without " HTTP/" is another protocol's command, "HELO world" or "USER me". */
	for (uint32_t i = target; i + 6 <= at; i++)
		if (memcmp(bytes + i, " HTTP/", 6) == 0)
			return YES;
	return NO;
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

/* Collects the handshake message out of its records into `out`. The hello's length, 0: more bytes, -1: not a ClientHello. */
static int gather_hello(const uint8_t *bytes, uint32_t length, uint8_t *out)
{
	uint32_t have = 0, at = 0;
	for (;;) {
		if (at < length && bytes[at] != 22)
			return -1;
		if (at + 1 < length && bytes[at + 1] != 3)
			return -1;
		if (at + 5 > length)
			return 0;
		uint32_t record = (uint32_t)bytes[at + 3] << 8 | bytes[at + 4];
		if (record == 0 || record > 16384 + 256)
			return -1;
		uint32_t there = length - at - 5 < record ? length - at - 5 : record;
		memcpy(out + have, bytes + at + 5, there);
		have += there;
		if (have && out[0] != 1)
			return -1;
		if (have >= 4) {
			uint32_t need = 4 + ((uint32_t)out[1] << 16 | (uint32_t)out[2] << 8 | out[3]);
			if (need > OPENING_MAX)
				return -1;
			if (have >= need)
				return (int)need;
		}
		if (there < record)
			return 0;
		at += 5 + record;
	}
}

static enum answer is_tls(const uint8_t *bytes, uint32_t length, struct opening *out)
{
	uint8_t message[OPENING_MAX];
	int size = gather_hello(bytes, length, message);
	if (size <= 0)
		return size == 0 ? MORE : NO;
	if (!read_client_hello((struct cursor){message + 4, (uint32_t)size - 4}, out)) {
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
	enum answer tls = length ? is_tls(bytes, length, out) : MORE;
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
