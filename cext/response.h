/* Finds where the head of an HTTP/1.1 response ends, and how long its body is (RFC 9112).
 *
 * Pure: no I/O, no allocation. Reads as leniently as clients do (curl, Go, Node, CPython): nothing is decided by a
 * response, and a client that refuses one of these forms sends no further request. Accepted are heads of any length,
 * lines that end with a bare LF, folded lines, control bytes, lines that aren't fields, empty lines before the status
 * line, an ICY status line, and equal Content-Lengths. Each byte is parsed once, so that a long head can pass as it comes.
 */
#ifndef PYINTERCEPTOR_RESPONSE_H
#define PYINTERCEPTOR_RESPONSE_H

#include "frame.h"

#define RESPONSE_LINE_MAX 256 /* bytes of a line that are kept until its end: enough for every field that is read */

/* The progress of parsing a head. Zero it before a head. Only the first four members are public. */
struct response {
	uint64_t body_length;     /* BODY_LENGTH: bytes */
	uint32_t status_code;     /* 0: not read yet */
	uint8_t body;             /* enum body_kind */
	uint8_t keep_alive;       /* the connection persists after this response */
	uint8_t minor;            /* of the version */
	uint8_t last;             /* enum field: the kind of the last line, which a folded line continues */
	uint64_t content_length;
	uint8_t has_length, is_chunked, has_coding; /* has_coding: a transfer coding other than chunked */
	uint8_t is_doubtful;      /* two clients could read the body's length differently */
	uint8_t close, says_keep_alive;
	uint8_t rest;             /* enum rest: a long line's beginning was read, its rest follows */
	uint8_t is_after_cr;      /* the last byte of that rest is a CR */
	uint16_t kept;            /* bytes in `line` */
	uint8_t line[RESPONSE_LINE_MAX]; /* an incomplete line; of a rest that is searched, its last bytes */
};

/* Parses up to `length` bytes that follow those of the calls before. Returns the number that belong to the head: all,
 * unless `reading` is READING_WHOLE (the public members are set) or READING_BAD. `to_head` is 1 if the request's method
 * was HEAD: then, and for 1xx, 204 and 304, the response has no body. READING_BAD means that the end of the head or of
 * the body is in doubt: the status line is malformed, a bare CR could end the head, or the connection persists and two
 * clients could read another length: Transfer-Encoding with Content-Length or in HTTP/1.0, chunked that isn't last or is
 * repeated, a malformed coding, Content-Lengths that differ or aren't 1 to 18 digits, one of these fields or Connection
 * in more than RESPONSE_LINE_MAX bytes or folded (Connection may be folded), or the name of one of the first two behind
 * a bare CR or in a line that isn't a field. */
uint32_t response_eat(struct response *response, const uint8_t *bytes, uint32_t length, int to_head,
                      enum reading *reading);

#endif
