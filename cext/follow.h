/* Follow: parses plain HTTP/1.1 message by message, so that the current policy decides each request. RFC 9112.
 *
 * Pure. passing.c peeks at heads and chunk sizes without consuming them; `allowed` is the number of bytes that may pass
 * before the next peek. So a request for a handler is handed to Python unread, exactly at its first byte, after the
 * response before it.
 */
#ifndef PYINTERCEPTOR_FOLLOW_H
#define PYINTERCEPTOR_FOLLOW_H

#include "chunks.h"
#include "response.h"

/* Bytes of a response's head that are held until it is complete. A longer one passes as it comes. */
#define RESPONSE_HELD 16384

/* The position of one direction of a followed flow within its messages. UNTIL_CLOSE: the response ends when the server
 * closes. IN_DOUBT: its end is unknown. */
enum place { AT_HEAD = 0, IN_LENGTH = 1, IN_CHUNKS = 2, AT_END = 3, UNTIL_CLOSE = 4, IN_DOUBT = 5 };

struct follow {
	struct head request_head; /* progress of parsing them */
	struct response response_head;
	struct chunks request_chunks, response_chunks;
	uint32_t parsed;          /* bytes of the response's head that were parsed, but may not pass yet */
	uint8_t request, response; /* enum place */
	uint8_t is_awaited;       /* 1: a request was passed and its response isn't complete */
	uint8_t to_head;          /* 1: that request's method is HEAD */
	uint8_t is_last;          /* 1: the connection serves no further request */
	uint8_t is_long_head;     /* 1: a part of the response's head has passed */
	uint16_t status;          /* of the response to that request (101, or 200 and above); 0: none yet */
};

enum followed {
	FOLLOWED_MORE = 0,        /* the head isn't complete */
	FOLLOWED_PASS = 1,        /* `allowed` bytes may pass */
	FOLLOWED_REQUEST = 2,     /* a request head is complete, malformed or cut off: decide on `frame` */
	FOLLOWED_SWITCHED = 3,    /* status 101 changed the protocol: pass all further bytes */
	FOLLOWED_UNFRAMED = 4     /* the end of this message, or of bytes that follow no request, is unknown */
};

/* Begins to follow a flow with its first request, which was decided to pass. Returns the number of bytes that may
 * pass. */
uint64_t follow_begin(struct follow *follow, const struct frame *first);

/* Note that all allowed bytes of a direction have passed, so its message may be complete. Call them before parsing
 * further. */
void follow_request_passed(struct follow *follow);
void follow_response_passed(struct follow *follow);

/* Returns 1 if the client's next bytes must be parsed now: a chunk's size, or the next request after the response
 * before it. */
int follow_expects_request(const struct follow *follow);

/* Parse the next bytes of a direction, at least one. `is_end` is 1 if no further byte will arrive. FOLLOWED_PASS sets
 * `allowed`; FOLLOWED_REQUEST sets `reading` and `frame`. */
enum followed follow_request(struct follow *follow, const uint8_t *bytes, uint32_t length, int is_end, uint64_t *allowed,
                             enum reading *reading, struct frame *frame);
enum followed follow_response(struct follow *follow, const uint8_t *bytes, uint32_t length, int is_end, uint64_t *allowed);

/* Passes the request that was parsed, with its body. Returns the number of bytes that may pass. */
uint64_t follow_pass_request(struct follow *follow, const struct frame *frame);

/* Passes a response whose end is in doubt: all its bytes pass, and the connection serves no further request. */
void follow_in_doubt(struct follow *follow);

/* Returns 1 if the connection serves no further request and the last one has passed whole. */
int follow_is_last_passed(const struct follow *follow);

/* Returns 1 if the connection also has no response that is known to go on: it only waits to be closed. */
int follow_is_over(const struct follow *follow);

#endif
