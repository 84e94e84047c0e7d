/* Judge: recognises a client's first bytes, and decides the flow by them.
 *
 * Pure: bytes and state in, the next step out. opening.c peeks at the socket and calls judge() when the client's bytes,
 * the server's bytes or a deadline arrive.
 */
#ifndef PYINTERCEPTOR_JUDGE_H
#define PYINTERCEPTOR_JUDGE_H

#include "relay.h"
#include "sniff.h"
#include "subject.h"

enum judged {
	JUDGED_MORE = 0,          /* wait for more bytes or a deadline */
	JUDGED_KEEP = 1,          /* the server may speak first: dial it, but hold the client's bytes back */
	JUDGED_FOLLOW = 2,        /* plain HTTP passes: `first` is its first request */
	JUDGED_UNFRAMED = 3,      /* HTTP passes that can't be followed: no rule could decide another request differently */
	JUDGED_SPLICE = 4,        /* another protocol passes */
	JUDGED_SERVE = 5,         /* Python answers HTTP, or takes the stream */
	JUDGED_REFUSE = 6,
	JUDGED_LATE = 7,          /* the opening is still incomplete at its deadline */
	JUDGED_NO_MEMORY = 8
};

struct first_bytes {
	const uint8_t *bytes;     /* beginning with the flow's first byte */
	uint32_t length;
	uint32_t protocol;        /* out: enum protocol of the opening, once it is known */
	double waited;            /* seconds since the first byte arrived */
	uint8_t is_end;           /* 1: the client has closed its half */
	uint8_t has_greeted;      /* 1: bytes of the server have reached the client */
	uint8_t is_unreachable;   /* 1: no server could be connected */
	uint8_t reserved[5];
	struct frame first;       /* out: JUDGED_FOLLOW: the first request */
};

/* Judges the first bytes. Sets the subject's decision, protocol and, if the bytes name one, host. `so_far` is zeroed
 * for a new flow. */
enum judged judge(struct subject *subject, struct sniffing *so_far, const void *table, const struct relay_options *options,
                  struct first_bytes *look);

#endif
