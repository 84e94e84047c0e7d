/* Finds where an HTTP/1.1 request ends (RFC 9112).
 *
 * Pure: no I/O, no allocation. Only the plain, unambiguous subset is framed. A request that two parsers could read
 * differently is READING_BAD: C gives the flow to Python, and Python refuses the request. C and Python both call
 * frame_request(), so that they agree on which requests are ambiguous. Responses are read leniently (response.h), since
 * nothing is decided by them.
 */
#ifndef PYINTERCEPTOR_FRAME_H
#define PYINTERCEPTOR_FRAME_H

#include "hosts.h"
#include "reading.h"

#define HEAD_MAX 16384        /* bytes of one head */
#define HEAD_FIELDS_MAX 128   /* fields in one head */

enum body_kind { BODY_NONE = 0, BODY_LENGTH = 1, BODY_CHUNKED = 2, BODY_UNTIL_CLOSE = 3 };

/* The progress of parsing one head: each byte is parsed once, even if bytes arrive one by one. Zero it before a head.
 * Pass it again with the same bytes and those that arrived since. Offsets count from the head's first byte. The
 * members are private. */
struct head {
	uint64_t content_length;
	uint32_t searched;        /* number of bytes parsed */
	uint32_t line;            /* offset of the first incomplete line */
	uint32_t lines;           /* number of complete lines */
	uint32_t method_length;
	uint32_t target_at, target_length;
	uint32_t host_at, host_length;
	uint8_t minor;            /* minor version: 0 or 1 */
	uint8_t hosts, lengths, codings, upgrades; /* number of Host, Content-Length and Upgrade fields, and of codings */
	uint8_t chunked, close, keep_alive, expect_continue, connection_upgrade, http2;
	uint8_t reserved[1];
};

struct frame {
	uint32_t answer;          /* READING_BAD: the status of our response: 400, 431, 501 (unknown transfer coding) or
	                             505 */
	uint32_t head_length;     /* bytes, including the blank line */
	const char *reason;       /* READING_BAD: the fault as a static sentence for the client; else NULL */
	uint32_t body;            /* enum body_kind */
	uint32_t method_length;   /* the method begins at the first byte */
	uint64_t body_length;     /* BODY_LENGTH: bytes */
	uint32_t target_at;       /* offset of the target */
	uint32_t target_length;
	uint32_t host_length;
	char host[HOST_MAX + 1];  /* the target's if it has one, else the Host field's, with its port; NUL-terminated */
	uint8_t is_plain;         /* 1: can be followed; 0: valid, but HTTP/1.0, CONNECT, TRACE or an upgrade to h2c */
	uint8_t is_head;          /* the method is HEAD, so the response has no body */
	uint8_t is_connect;
	uint8_t keep_alive;       /* the connection persists after this request */
	uint8_t expect_continue;  /* Expect: 100-continue */
	uint8_t upgrade;          /* Upgrade, also listed in Connection */
};

/* Frames a request head. Returns READING_BAD for: a bare LF or CR, NUL or another control byte, several Host fields, no
 * Host field in HTTP/1.1, a malformed Host, Transfer-Encoding with Content-Length, chunked that isn't last or is
 * repeated, Content-Lengths that differ, a Content-Length that isn't 1 to 18 digits, obs-fold, a space before the
 * colon, an absolute form or a CONNECT that disagrees with Host (the default port may be omitted, CONNECT's always), a malformed request line, more than HEAD_MAX bytes or
 * HEAD_FIELDS_MAX fields (431), an empty line before the request line, an unknown transfer coding (400 or 501) or
 * version (400 or 505), any transfer coding in HTTP/1.0, a target form that the method doesn't allow. A bare CR or LF
 * or a control byte is reported at once, another fault of a line when the line is complete, and a fault of the whole
 * head (a field that is missing, repeated or in conflict with another) at the blank line or before. */
enum reading frame_request(struct head *head, const uint8_t *bytes, uint32_t length, struct frame *out);

/* Returns 1 if a lenient proxy could take the bytes for a request to forward, in any form: the target begins with
 * neither "/" nor "*", or isn't there yet. */
int frame_is_for_proxy(const uint8_t *bytes, uint32_t length);

#endif
