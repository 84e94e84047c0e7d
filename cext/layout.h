/* A policy as bytes: an ordered list of stages, each with its rows, and the targets that rows name.
 *
 * One flat, immutable blob that pyinterceptor/policy/table.py writes. policy_check() proves once that every offset is inside;
 * after that it is only read, by policy.c and rows.c. Host byte order, every offset 4-aligned.
 *
 * A row admits some ports and protocols for hosts, addresses or all there is. Of the rows of a stage that match, the one of the
 * lowest rank counts; Python gives every row of a stage a rank of its own. The stage's `on_match` or `on_miss` then says what
 * becomes of it: the next stage, or an answer.
 *
 * An index is sorted by its key, and `parent` leads from an entry to the next entry whose key is a prefix of its own, or equal.
 * So the entries that match a key are found by one binary search and one walk: the last entry that isn't after the key, from
 * there up to the first that is a prefix of it, and then all its parents.
 */
#ifndef PYINTERCEPTOR_LAYOUT_H
#define PYINTERCEPTOR_LAYOUT_H

#include <stdint.h>

#include "protocol.h"

#define POLICY_MAGIC 0x50494353
#define WAITS_MAX 64          /* ports */
#define NO_RULE 0xffffffff
#define NO_TARGET 0xffffffff
#define NO_PARENT 0xffffffff

enum outcome { OUTCOME_REFUSE = 0, OUTCOME_NEXT = 1, OUTCOME_SPLICE = 2, OUTCOME_TARGET = 3 };
enum takes { TAKES_HTTP = 0, TAKES_STREAM = 1 };

/* How a row matches: by the host's text, by the address that the host is, by the destination's address, or anything. */
enum matched { MATCHED_NOTHING = 0, MATCHED_NAME = 1, MATCHED_GLOB = 2, MATCHED_LITERAL = 3, MATCHED_DESTINATION = 4,
               MATCHED_ALL = 5 };

struct policy_array {
	uint32_t count;
	uint32_t offset;
};

struct policy_header {
	uint32_t magic;
	uint32_t size;                /* of the whole blob, bytes */
	uint32_t generation;
	uint32_t locals;              /* offset of struct policy_rows: its networks are what local_networks names */
	struct policy_array stages;   /* struct policy_stage[], in order */
	struct policy_array targets;  /* uint32_t[], enum takes */
	struct policy_array waits;    /* uint16_t[]: ports whose clients speak first */
};

struct policy_stage {
	uint32_t rows;                /* offset of struct policy_rows; stages may share it */
	uint16_t on_match;            /* enum outcome */
	uint16_t on_miss;             /* enum outcome, but OUTCOME_TARGET */
};

/* Offsets of arrays and texts are from its own start: one rows' bytes are the same in every policy. */
struct policy_rows {
	uint32_t size;                /* bytes */
	struct policy_array names;    /* struct policy_name[]: the whole host; a parent is an equal key */
	struct policy_array suffixes; /* struct policy_name[]: `*text`, keys and hosts are compared backwards (texts are reversed) */
	struct policy_array prefixes; /* struct policy_name[]: `text*` */
	struct policy_array globs;    /* struct policy_name[]: every other glob, by rank, without parents */
	struct policy_array networks; /* struct policy_network[], sorted by address, then prefix */
	struct policy_array all;      /* struct policy_row[], by rank */
};

struct policy_row {
	uint32_t rank;                /* the lowest counts */
	uint32_t rule;                /* Python's number for it, or NO_RULE */
	uint32_t target;              /* index of one, or NO_TARGET */
	uint16_t port;                /* 0: any */
	uint16_t protocols;           /* bits, 1 << enum protocol */
};

struct policy_name {
	struct policy_row row;
	uint32_t parent;              /* index, below its own, or NO_PARENT */
	uint32_t text;                /* offset */
	uint16_t length;
	uint16_t reserved;
};

struct policy_network {
	uint8_t address[16];          /* v4 as v4-mapped; zero behind the prefix */
	struct policy_row row;
	uint32_t parent;
	uint8_t prefix;               /* bits, 0..128 (v4: 96 + its own) */
	uint8_t reserved[3];
};

/* 1 if the blob of `size` bytes is a well-formed table, else 0. */
int policy_check(const void *table, uint32_t size);

#endif
