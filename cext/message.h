/* DNS messages: a container's question, and upstream's answer to it. RFC 1035 section 4.1, RFC 6891, RFC 2308.
 *
 * Pure. Called by pyinterceptor/dns. The names in records are skipped and never followed, so that a compression pointer
 * can't lead in a circle; an answer is passed on with its question at the same offset, where its pointers stay valid.
 */
#ifndef PYINTERCEPTOR_MESSAGE_H
#define PYINTERCEPTOR_MESSAGE_H

#include "hosts.h"

#define MESSAGE_MAX 65535        /* bytes, over TCP */
#define MESSAGE_HEADER 12        /* bytes */
#define ANSWER_ADDRESSES_MAX 16  /* addresses that are read from one answer */
#define ANSWER_TTL_MAX 86400     /* seconds for which an answer is kept at most */
#define DENIAL_TTL_MAX 10800     /* seconds for which the absence of a name or record is kept at most (RFC 2308) */

/* A query. `code` is 0 if it can be answered, else the error code (RCODE) for its answer. */
struct question {
	uint16_t id, flags;
	uint16_t kind;               /* QTYPE */
	uint16_t payload;            /* bytes of an answer over UDP that EDNS permits; 0 without EDNS */
	uint16_t length;             /* bytes of name, type and class after the header; 0 if they are malformed */
	uint16_t code;
	char host[HOST_MAX + 1];     /* the name in lower case; "" if it is no host name */
};

/* Returns 0 if the message can't be answered, not even with an error: it is shorter than a header, or a response. */
int question_read(const uint8_t *wire, uint32_t length, struct question *out);

/* The facts of an answer. */
struct answer {
	uint16_t code;               /* RCODE; 12 bits if it has an OPT record */
	uint16_t is_cut;             /* 1: TC is set */
	uint16_t has_edns;
	uint16_t is_bare;            /* 1: an error without a question, and so without usable records */
	uint32_t ttl;                /* seconds for which it may be kept; 0: not at all */
	uint32_t lowest;             /* seconds; the lowest TTL among the answer's records, at most ANSWER_TTL_MAX */
	uint32_t count;              /* of `addresses` */
	uint8_t addresses[ANSWER_ADDRESSES_MAX][16]; /* of A and AAAA records, v4 as v4-mapped */
};

/* Reads a response to the question (name, type and class; letters may differ in case) that was asked with this id.
 * Returns 0 if the message is malformed or doesn't answer it. */
int answer_read(const uint8_t *wire, uint32_t length, uint16_t id, const uint8_t *question, uint32_t question_length,
                struct answer *out);

/* What a container gets of an answer that answer_read() has accepted. */
struct passing_on {
	uint16_t id, flags;          /* of the response, without TC and RCODE */
	uint16_t is_edns;            /* 1: add an OPT record */
	uint16_t payload;            /* bytes for that OPT record */
	uint16_t has_v6;             /* 0: the answer ends before its first AAAA, HTTPS or SVCB record */
	uint16_t reserved;
	uint32_t limit;              /* bytes */
	uint32_t age;                /* seconds since the answer came; TTLs are lower by as much */
};

/* Writes the answer for a container to out[MESSAGE_MAX], with the container's own question of the same length. Records
 * that exceed the limit are left out, and TC is set. Returns its length. */
uint32_t answer_write(const uint8_t *wire, uint32_t length, const uint8_t *question, uint32_t question_length,
                      const struct passing_on *to, uint8_t *out);

#endif
