/* Which protocol and host does this opening speak of?
 *
 * Pure: bytes in, answer out; nothing is consumed. Whoever takes the flow next sees the same bytes again.
 */
#ifndef PYINTERCEPTOR_SNIFF_H
#define PYINTERCEPTOR_SNIFF_H

#include "policy.h"

#define OPENING_MAX 16384     /* bytes; a post-quantum ClientHello is under 2 KiB, 8 KiB of headers is common */

struct opening {
	uint32_t protocol;        /* enum protocol; PROTOCOL_NONE: need more bytes */
	uint32_t head_length;     /* HTTP: bytes up to and with the blank line */
	uint32_t host_length;
	char host[HOST_MAX + 1];  /* Host field or SNI as it came, NUL-terminated; empty where none */
	uint8_t http2;            /* TLS: ALPN offers h2 */
	uint8_t ambiguous;        /* HTTP: the head is not one frame_request() calls plain */
	uint8_t reserved[2];
};

/* Looks at the `length` first bytes of a flow. `final` says no more will come before the verdict (EOF, deadline or
 * the buffer is full): then the answer is never PROTOCOL_NONE (an HTTP head that never ended is HTTP and ambiguous,
 * so that it can be answered; other unfinished things are OPAQUE). HTTP/1.x is recognised from its first line
 * (token SP target SP HTTP/1.x), so that a partial method like "GE" waits and "SSH-2.0-" is OPAQUE at once. */
void sniff(const uint8_t *bytes, uint32_t length, int final, struct opening *out);

#endif
