/* Which protocol and host do a flow's first bytes name?
 *
 * Pure: bytes in, answer out; nothing is consumed. The flow's next reader sees the same bytes again.
 */
#ifndef PYINTERCEPTOR_SNIFF_H
#define PYINTERCEPTOR_SNIFF_H

#include "frame.h"
#include "protocol.h"

#define OPENING_MAX 16384     /* bytes; a post-quantum ClientHello is under 2 KiB, 8 KiB of headers is common */

struct opening {
	uint32_t protocol;        /* enum protocol; never PROTOCOL_NONE */
	uint32_t head_length;     /* HTTP: bytes up to and with the blank line */
	uint32_t host_length;
	char host[HOST_MAX + 1];  /* Host field or SNI as it came, NUL-terminated; empty where none */
	uint8_t http2;            /* TLS: ALPN offers h2 */
	uint8_t ambiguous;        /* HTTP: frame_request() does not call the head plain */
	uint8_t reserved[2];
};

/* How far an opening has been looked at, so that each of its bytes is looked at once. Zero it for a new flow; give
 * it back with the same bytes and those that have come since. The members are private. */
struct sniffing {
	struct head head;         /* HTTP: once the first line is known to be a request's */
	uint32_t start;           /* HTTP: blanks before the method */
	uint32_t target;          /* HTTP: offset of the target, 0: not reached */
	uint32_t line;            /* HTTP: bytes of the first line looked at */
	uint32_t record;          /* TLS: offset of the first record that isn't complete */
	uint32_t message;         /* TLS: bytes of the handshake message in the records before it */
	uint8_t prefix[4];        /* TLS: the message's type and length, as far as they are there */
	uint8_t is_http1;
	uint8_t reserved[3];
};

/* Looks at the `length` first bytes of a flow. READING_MORE: the protocol or its head isn't certain yet, and `out`
 * is the answer if nothing more comes (an HTTP head that never ended is HTTP and ambiguous, so that it can be
 * answered; another unfinished opening is OPAQUE); else READING_WHOLE. HTTP/1.x is recognised from its first line
 * (token SP target SP HTTP/1.x), so that a partial method like "GE" waits and "SSH-2.0-" is OPAQUE at once.
 * OPENING_MAX bytes are always enough. */
enum reading sniff(struct sniffing *so_far, const uint8_t *bytes, uint32_t length, struct opening *out);

#endif
