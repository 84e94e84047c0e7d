/* Judge: what a client's first bytes ask for, and whether it may have it.
 *
 * Pure: bytes and state in, the next step out. flow.c peeks at the socket and calls judge() whenever more bytes, the server's bytes
 * or a deadline have come.
 */
#ifndef PYINTERCEPTOR_JUDGE_H
#define PYINTERCEPTOR_JUDGE_H

#include "relay.h"
#include "sniff.h"
#include "subject.h"

enum judged {
	JUDGED_MORE = 0,          /* more bytes or time are needed */
	JUDGED_KEEP = 1,          /* the server may speak first: dial it, the client's bytes are kept from it */
	JUDGED_FOLLOW = 2,        /* plain HTTP that passes: `first` is its first request */
	JUDGED_UNFRAMED = 3,      /* HTTP that passes and can't be followed: no rule could decide another request differently */
	JUDGED_SPLICE = 4,        /* anything else that passes */
	JUDGED_SERVE = 5,         /* HTTP that Python answers */
	JUDGED_REFUSE = 6,
	JUDGED_LATE = 7,          /* the opening isn't complete at its deadline */
	JUDGED_NO_MEMORY = 8
};

struct first_bytes {
	const uint8_t *bytes;     /* from the flow's first one */
	uint32_t length;
	uint32_t protocol;        /* out: enum protocol of the opening, once it is known */
	double waited;            /* seconds since the first byte was seen */
	uint8_t is_end;           /* the client sends nothing more */
	uint8_t has_greeted;      /* bytes of the server have reached the client */
	uint8_t is_unreachable;   /* no server could be connected */
	uint8_t reserved[5];
	struct frame first;       /* out: JUDGED_FOLLOW */
};

enum judged judge(struct subject *subject, struct sniffing *so_far, const void *table, const struct relay_options *options,
                  struct first_bytes *look);

#endif
