/* Follow: plain HTTP/1.1 message by message, so that each request is decided by the policy of its moment. RFC 9112.
 *
 * Pure: flow.c peeks at heads and chunk sizes, which are never consumed; `allowed` says how many bytes may pass before the next look.
 * So a request that is Python's is handed over unread, at exactly its boundary, after the response before it.
 */
#ifndef PYINTERCEPTOR_FOLLOW_H
#define PYINTERCEPTOR_FOLLOW_H

#include "frame.h"

/* Where one way of a followed flow stands in its messages. */
enum place { AT_HEAD = 0, IN_LENGTH = 1, IN_CHUNKS = 2, AT_END = 3 };

struct follow {
	struct head request_head, response_head; /* as far as they were read */
	struct chunks request_chunks, response_chunks;
	uint8_t request, response; /* enum place */
	uint8_t is_awaited;       /* a request has gone whose response isn't complete */
	uint8_t to_head;          /* that request's method is HEAD */
	uint8_t is_last;          /* nothing more is asked on this connection */
	uint8_t reserved;
	uint16_t status;          /* of the latest response's head; 0: none has come since the request */
};

enum followed {
	FOLLOWED_MORE = 0,        /* a head or a chunk's size isn't complete */
	FOLLOWED_PASS = 1,        /* `allowed` bytes may pass */
	FOLLOWED_REQUEST = 2,     /* a request's head is complete, or malformed: decide on `frame` */
	FOLLOWED_SWITCHED = 3,    /* the protocol was changed: all bytes pass from here on */
	FOLLOWED_UNFRAMED = 4     /* where this message ends isn't known */
};

/* Begins a followed flow with its first request, which may pass; returns the count of bytes that may. */
uint64_t follow_begin(struct follow *follow, const struct frame *first);

/* All allowed bytes of a way have passed: its message may be over. Call both before looking. */
void follow_request_passed(struct follow *follow);
void follow_response_passed(struct follow *follow);

/* 1 if the client's next bytes are to be looked at now: a chunk's size, or the next request after the response before it. */
int follow_expects_request(const struct follow *follow);

/* Looks at the bytes that come next (at least one; `is_end`: no more will come). */
enum followed follow_request(struct follow *follow, const uint8_t *bytes, uint32_t length, int is_end, uint64_t *allowed,
                             enum reading *reading, struct frame *frame);
enum followed follow_response(struct follow *follow, const uint8_t *bytes, uint32_t length, int is_end, uint64_t *allowed);

/* The request that was looked at passes, with its body; returns the count of bytes that may. */
uint64_t follow_pass_request(struct follow *follow, const struct frame *frame);

/* The response lasts until the server closes, and nothing more is asked. */
void follow_until_close(struct follow *follow);

#endif
