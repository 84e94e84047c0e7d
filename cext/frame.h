/* How long is this HTTP/1.1 message? (RFC 9112)
 *
 * Pure: no I/O, no allocation. Only the plain, unambiguous subset is framed. A message that two parsers could read
 * differently is READING_BAD: C hands it to Python, and Python refuses it. Both sides call frame_request(), so
 * ambiguity is decided in one place.
 */
#ifndef PYINTERCEPTOR_FRAME_H
#define PYINTERCEPTOR_FRAME_H

#include "hosts.h"
#include "reading.h"

#define HEAD_MAX 16384        /* bytes of one head */
#define HEAD_FIELDS_MAX 128   /* fields in one head */

enum body_kind { BODY_NONE = 0, BODY_LENGTH = 1, BODY_CHUNKED = 2, BODY_UNTIL_CLOSE = 3 };

/* How far a head has been read, so that each of its bytes is looked at once, however they arrive. Zero it where a
 * head begins; give it back with the same bytes and those that have come since. All offsets are from the head's
 * first byte; the members are private. */
struct head {
	uint64_t content_length;
	uint32_t searched;        /* bytes looked at */
	uint32_t line;            /* where the first incomplete line begins */
	uint32_t lines;           /* complete ones */
	uint32_t method_length;
	uint32_t target_at, target_length;
	uint32_t host_at, host_length;
	uint16_t status_code;
	uint8_t minor;            /* of the version */
	uint8_t hosts, lengths, codings, upgrades; /* fields of these names */
	uint8_t chunked, close, keep_alive, expect_continue, connection_upgrade, http2;
	uint8_t reserved[3];
};

struct frame {
	uint32_t answer;          /* READING_BAD: the status to answer with: 400, 431, 501 (unknown transfer coding), 505; responses: 502 */
	uint32_t head_length;     /* bytes with the blank line */
	const char *reason;       /* READING_BAD: a sentence, static; else NULL */
	uint32_t body;            /* enum body_kind */
	uint32_t method_length;   /* requests: the method stands at the first byte */
	uint64_t body_length;     /* BODY_LENGTH */
	uint32_t target_at;       /* requests: offset of the target */
	uint32_t target_length;
	uint32_t host_length;
	char host[HOST_MAX + 1];  /* requests: as it came, with port; NUL-terminated */
	uint16_t status_code;     /* responses */
	uint8_t is_plain;         /* may be followed; 0: legal, but HTTP/1.0, CONNECT, TRACE, an upgrade to h2c, or of absolute form */
	uint8_t is_head;          /* requests: method HEAD (its response has no body) */
	uint8_t is_connect;
	uint8_t keep_alive;       /* the connection persists after this message */
	uint8_t expect_continue;  /* requests: Expect: 100-continue */
	uint8_t upgrade;          /* requests: an Upgrade field; responses: 101 */
};

/* Frames a request head. READING_BAD for: bare LF or CR, NUL or other controls, no Host or two in 1.1, bad Host, TE
 * with CL, chunked not last or twice, several differing CL, CL not digits or over 2^63, obs-fold, space before the
 * colon, an absolute form that disagrees with Host, a bad request line, more than HEAD_MAX bytes or HEAD_FIELDS_MAX
 * fields (431), empty lines (CRLF) before the request line. Each fault is reported as soon as its line is complete,
 * a stray byte at once. */
enum reading frame_request(struct head *head, const uint8_t *bytes, uint32_t length, struct frame *out);

/* Frames a response head to a request (`to_head`: it was HEAD). 1xx, 204, 304: no body. */
enum reading frame_response(struct head *head, const uint8_t *bytes, uint32_t length, int to_head, struct frame *out);

/* A chunked body, as it passes by: zeroed to start with. */
struct chunks {
	uint64_t remaining;       /* of the current chunk's data, so a caller may splice this many bytes unseen */
	uint32_t state;           /* private */
	uint32_t seen;            /* private: bytes of the current line or trailer section */
	uint32_t reading;         /* enum reading: WHOLE once the last trailer's blank line has passed; BAD: nothing more may pass */
	uint32_t reserved;
};

/* Eats up to `length` bytes and stops at the end of the body; returns the number that belong to it, framing included
 * (READING_BAD: those before the fault). Extensions are allowed up to 1 KiB a line, trailers up to HEAD_MAX. */
uint32_t chunks_eat(struct chunks *state, const uint8_t *bytes, uint32_t length);

/* How many bytes of chunk data come next: they may pass unseen; then call chunks_skip(). */
uint64_t chunks_ahead(const struct chunks *state);

/* `count` bytes of chunk data were moved elsewhere (count <= remaining). */
void chunks_skip(struct chunks *state, uint64_t count);

#endif
