/* The byte layout of a policy: an ordered list of stages, each with its rows, and the targets that rows refer to.
 *
 * The table is one flat, immutable blob. pyinterceptor/policy/table.py writes it; policy_check() verifies once that
 * every offset is inside it; policy.c, rows.c and guard.c then only read it. Host byte order; every offset is
 * 4-aligned.
 *
 * A row matches a host, a network or everything, limited to some ports and protocols. Of a stage's matching rows, the
 * row of lowest rank is used; Python gives each row of a stage a different rank. The stage's `on_match` or `on_miss` is
 * the outcome: go on to the next stage, or decide.
 *
 * An index is sorted by key. `parent` links an entry to the next entry whose key is a prefix of its own, or equal. One
 * binary search and one walk find all entries that match a key: start at the last entry that doesn't sort after the
 * key, follow parents to the first entry that is a prefix of the key, then take all its parents as well.
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

/* How a row matched. NAME and GLOB: by the host's text. LITERAL: by a host that is an address. DESTINATION: by the
 * destination's address. ALL: a catch-all row. */
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
	uint32_t locals;              /* offset of the struct policy_rows whose networks are the user's local_networks */
	struct policy_array stages;   /* struct policy_stage[], in order */
	struct policy_array targets;  /* uint32_t[], enum takes */
	struct policy_array waits;    /* uint16_t[]: ports whose clients speak first */
	struct policy_array ruled;    /* uint8_t[16][], sorted: the real addresses of the names that rows name exactly */
	uint32_t is_resolved;         /* 0: `ruled` isn't known yet, and any address may be one of them */
};

struct policy_stage {
	uint32_t rows;                /* offset of struct policy_rows; stages may share it */
	uint16_t on_match;            /* enum outcome */
	uint16_t on_miss;             /* enum outcome, except OUTCOME_TARGET */
};

/* Offsets of arrays and texts count from the start of this struct, so equal rows have equal bytes in every policy. */
struct policy_rows {
	uint32_t size;                /* bytes */
	struct policy_array names;    /* struct policy_name[]: exact hosts; a parent has an equal key */
	struct policy_array suffixes; /* struct policy_name[]: globs `*text`; text and host are compared reversed */
	struct policy_array prefixes; /* struct policy_name[]: globs `text*` */
	struct policy_array globs;    /* struct policy_name[]: every other glob, by rank, without parents */
	struct policy_array networks; /* struct policy_network[], sorted by address, then prefix */
	struct policy_array all;      /* struct policy_row[], by rank */
};

struct policy_row {
	uint32_t rank;                /* of the matching rows, the lowest rank is used */
	uint32_t rule;                /* Python's number for the rule, or NO_RULE */
	uint32_t target;              /* index of the target, or NO_TARGET */
	uint16_t port;                /* 0: any */
	uint16_t protocols;           /* bit set of 1 << enum protocol */
};

struct policy_name {
	struct policy_row row;
	uint32_t parent;              /* index of the parent, lower than this entry's, or NO_PARENT */
	uint32_t text;                /* offset of the text */
	uint16_t length;
	uint16_t reserved;
};

struct policy_network {
	uint8_t address[16];          /* v4 as v4-mapped; the bits after the prefix are zero */
	struct policy_row row;
	uint32_t parent;
	uint8_t prefix;               /* bits, 0..128 (v4: 96 + the v4 prefix) */
	uint8_t reserved[3];
};

/* Returns 1 if the blob of `size` bytes is a well-formed table, else 0. The functions in policy.h require such a
 * table. */
int policy_check(const void *table, uint32_t size);

#endif
