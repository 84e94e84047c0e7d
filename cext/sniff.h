/* Recognises the protocol and host of a flow by its first bytes.
 *
 * Pure: bytes in, result out. Nothing is consumed: the next reader of the flow reads the same bytes again. Called by
 * judge.c, and by the tests through cffi.
 */
#ifndef PYINTERCEPTOR_SNIFF_H
#define PYINTERCEPTOR_SNIFF_H

#include "frame.h"
#include "protocol.h"

#define OPENING_MAX 16384     /* bytes; a post-quantum ClientHello has under 2 KiB, 8 KiB of headers is common */

struct opening {
	uint32_t protocol;        /* enum protocol; never PROTOCOL_NONE */
	uint32_t head_length;     /* HTTP: bytes up to and including the blank line */
	uint32_t host_length;
	char host[HOST_MAX + 1];  /* Host field or SNI as the client wrote it, NUL-terminated; empty if there is none */
	uint8_t http2;            /* TLS: ALPN offers h2 */
	uint8_t ambiguous;        /* HTTP: the head is malformed or not plain (struct frame): it can't be followed */
	uint8_t malformed;        /* HTTP: the head is malformed or incomplete: its host is unknown */
	uint8_t reserved[1];
};

/* The progress of parsing an opening: each byte is parsed once. Zero it for a new flow. Pass it again with the same
 * bytes and those that arrived since. The members are private. */
struct sniffing {
	struct head head;         /* HTTP: used once the first line is recognised as a request line */
	uint32_t start;           /* HTTP: number of blanks before the method */
	uint32_t method;          /* HTTP: length of the method; 0: not complete yet */
	uint32_t target;          /* HTTP: offset of the target; 0: not reached yet */
	uint32_t line;            /* HTTP: number of bytes of the first line that were parsed, blanks before it included */
	uint32_t record;          /* TLS: offset of the first incomplete record */
	uint32_t message;         /* TLS: bytes of the handshake message in the complete records */
	uint8_t prefix[4];        /* TLS: the message's type and length, as far as they have arrived */
	uint8_t is_http1;
	uint8_t reserved[3];
};

/* Parses the first `length` bytes of a flow. Returns READING_MORE while the protocol or its head isn't complete; `out`
 * is then the result if no further byte arrives: an incomplete HTTP head is HTTP and ambiguous, so that the client gets
 * a response; an incomplete TLS hello is TLS; anything else incomplete is OPAQUE, except more than 32 bytes of a
 * request line, which are HTTP. Otherwise returns READING_WHOLE, at the latest with OPENING_MAX bytes. HTTP/1.x is
 * recognised by its first line (method, target, HTTP/1.x): a partial method such as "GE" needs more bytes, "SSH-2.0
"
 * is OPAQUE at once, and so is any line with a binary byte, as LDAP's. A lenient server may read as HTTP what is
 * OPAQUE here, so judge() refuses OPAQUE where it could reach a host with a rule. */
enum reading sniff(struct sniffing *so_far, const uint8_t *bytes, uint32_t length, struct opening *out);

#endif
