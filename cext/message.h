/* DNS messages: a container's question, and upstream's answer to it. RFC 1035 section 4.1, RFC 6891, RFC 2308.
 *
 * Pure. Called by pyinterceptor/dns. The names in records are skipped and never followed, so that a compression pointer
 * can't lead in a circle; an answer is passed on with its question at the same offset, where its pointers stay valid.
 */
#ifndef PYINTERCEPTOR_MESSAGE_H
#define PYINTERCEPTOR_MESSAGE_H

#include "hosts.h"

#define MESSAGE_MAX 65535        /* bytes, over TCP */
#define DATAGRAM_MAX 4096        /* bytes of a query; one with EDNS options is far shorter */
#define UDP_ANSWER_MAX 1232      /* bytes, even if EDNS permits more: a longer datagram could be fragmented */
#define PLAIN_ANSWER_MAX 512     /* bytes, over UDP without EDNS */
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

/* Returns the bytes that an answer over UDP may have. */
uint32_t answer_limit(const struct question *asked);

/* What a container gets of an answer that answer_read() has accepted. */
struct passing_on {
	uint32_t limit;              /* bytes */
	uint32_t age;                /* seconds since the answer came; TTLs are lower by as much */
	uint32_t has_v6;             /* 0: the answer ends before its first AAAA, HTTPS or SVCB record */
};

/* Writes the answer for a container to out[limit], with the container's own question, whose `length` bytes are given.
 * Records that exceed the limit are left out, and TC is set. Returns its length. */
uint32_t answer_write(const uint8_t *wire, uint32_t length, const struct question *asked, const uint8_t *question,
                      const struct passing_on *to, uint8_t *out);

/* An answer of our own. */
struct reply {
	uint32_t code;               /* RCODE */
	uint32_t is_cut;             /* 1: the client shall repeat its question over TCP */
	uint32_t ttl;                /* seconds, of the record */
	uint32_t length;             /* of `record`, up to 255 bytes */
	const uint8_t *record;       /* data of a record of the question's type; NULL: none */
};

/* Writes our own answer to out[REPLY_MAX]. Returns its length. */
#define REPLY_MAX 1024
uint32_t reply_write(const struct question *asked, const uint8_t *question, const struct reply *reply, uint8_t *out);

#endif
