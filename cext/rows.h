/* Searches the rows of one stage.
 *
 * Pure. Called by policy.c and guard.c only.
 */
#ifndef PYINTERCEPTOR_ROWS_H
#define PYINTERCEPTOR_ROWS_H

#include "addresses.h"
#include "hosts.h"
#include "layout.h"

#define ADDRESSES_MAX 4 /* the host's, the destination's, and the v4 address embedded in each */

/* The search key: the same for every stage. */
struct question {
	uint16_t port;           /* 0: unknown */
	uint16_t protocols;      /* one bit, 1 << enum protocol; 0: selects no row, but sets the other results */
	uint32_t host_length;    /* 0: unknown */
	uint32_t address_count;
	struct {
		uint8_t bytes[16];
		uint32_t matched;    /* enum matched, for a row that matches this address */
	} addresses[ADDRESSES_MAX];
	char host[HOST_MAX + 1]; /* canonical */
	char reversed[HOST_MAX];
};

/* The rows that match the question's host or address. */
struct found {
	const struct policy_row *row; /* the matching row of lowest rank that admits port and protocol, or NULL */
	uint32_t matched;             /* enum matched, of `row` */
	int is_possible;              /* 1: a row matches for some port and protocol */
	int is_certain;               /* 1: a row matches for every port and protocol */
	uint32_t count;               /* number of matches; a row counts once for each address that it matches */
	uint32_t *offsets, room;      /* output array for the first `room` matches, as offsets from `base`; or NULL */
	const uint8_t *base;
};

/* Fills in the question. `host` is NULL with length 0, and `destination` NULL, if it is unknown. */
void question_ask(struct question *question, const char *host, uint32_t host_length, const struct endpoint *destination);

struct found rows_find(const struct policy_rows *rows, const struct question *question);

/* Lists every row that matches, regardless of port and protocol: writes its offset from `base` to offsets[room],
 * unordered. Returns the number of matches. The question must have no protocol: with one, find_glob() could stop before
 * the last match. */
uint32_t rows_list(const struct policy_rows *rows, const struct question *question, const void *base, uint32_t *offsets,
                   uint32_t room);

/* Returns 1 if a row matches exactly this address and port. A v4 address embedded in it doesn't count. */
int rows_hold(const struct policy_rows *rows, const struct endpoint *to);

#endif
