/* How long is this HTTP/1.1 message? (RFC 9112)
 *
 * Pure: no I/O, no allocation. Only the plain, unambiguous subset is framed; whatever two parsers could read
 * differently is named, so that C hands it to Python and Python refuses it. Both sides call frame_request(): what is
 * ambiguous is decided in one place.
 */
#ifndef PYINTERCEPTOR_FRAME_H
#define PYINTERCEPTOR_FRAME_H

#include "policy.h"

#define HEAD_MAX 16384        /* bytes of one head */
#define HEAD_FIELDS_MAX 128   /* fields in one head */

enum frame_status {
	FRAME_MORE = 0,           /* the head isn't complete */
	FRAME_PLAIN = 1,          /* may be followed */
	FRAME_LEGAL = 2,          /* legal, but not followed: HTTP/1.0, absolute form that agrees with Host, CONNECT, TRACE, Upgrade to h2c */
	FRAME_BAD = 3             /* answer `status` and close */
};

enum body_kind { BODY_NONE = 0, BODY_LENGTH = 1, BODY_CHUNKED = 2, BODY_UNTIL_CLOSE = 3 };

struct frame {
	uint32_t status;          /* enum frame_status */
	uint32_t answer;          /* FRAME_BAD: 400, 431, 501 (unknown transfer coding), 505; responses: 502 */
	const char *reason;       /* FRAME_BAD: a sentence, static; else NULL */
	uint32_t head_length;     /* bytes with the blank line */
	uint32_t body;            /* enum body_kind */
	uint64_t body_length;     /* BODY_LENGTH */
	uint32_t host_length;
	char host[HOST_MAX + 1];  /* requests: as it came, with port; NUL-terminated */
	uint16_t status_code;     /* responses */
	uint8_t is_head;          /* requests: method HEAD (its response has no body) */
	uint8_t is_connect;
	uint8_t keep_alive;       /* the connection persists after this message */
	uint8_t expect_continue;  /* requests: Expect: 100-continue */
	uint8_t upgrade;          /* requests: an Upgrade field; responses: 101 */
	uint8_t reserved;
};

/* Frames a request head. FRAME_BAD for: bare LF or CR, NUL or other controls, no Host or two in 1.1, bad Host, TE with CL,
 * chunked not last or twice, several differing CL, CL not digits or over 2^63, obs-fold, space before the colon, an absolute form that
 * disagrees with Host, a bad request line, more than HEAD_MAX bytes or HEAD_FIELDS_MAX fields (431). One or more empty lines (CRLF) before
 * the request line are BAD, too. */
void frame_request(const uint8_t *bytes, uint32_t length, struct frame *out);

/* Frames a response head to a request (`to_head`: it was HEAD). 1xx, 204, 304: no body. */
void frame_response(const uint8_t *bytes, uint32_t length, int to_head, struct frame *out);

/* A chunked body, as it passes by: state is zeroed to start with. */
struct chunks {
	uint64_t remaining;       /* of the current chunk's data, so a caller may splice this many bytes unseen */
	uint32_t state;           /* private */
	uint32_t seen;            /* private: bytes of the current line or trailer section */
	uint8_t done;             /* the last trailer's blank line has passed */
	uint8_t bad;              /* malformed: nothing more may pass */
	uint8_t reserved[6];
};

/* Eats up to `length` bytes, stops at the end of the body; returns how many belong to it (framing bytes included).
 * bad: the count before the fault. Extensions are allowed up to 1 KiB a line, trailers up to HEAD_MAX. */
uint32_t chunks_eat(struct chunks *state, const uint8_t *bytes, uint32_t length);

/* How many bytes of chunk data come next: they may pass unseen, then say chunks_skip(). */
uint64_t chunks_ahead(const struct chunks *state);

/* `count` bytes of chunk data were moved elsewhere (count <= remaining). */
void chunks_skip(struct chunks *state, uint64_t count);

#endif
