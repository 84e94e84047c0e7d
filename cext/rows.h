/* Which row of one stage matches?
 *
 * Pure. Called by policy.c and guard.c alone.
 */
#ifndef PYINTERCEPTOR_ROWS_H
#define PYINTERCEPTOR_ROWS_H

#include "addresses.h"
#include "hosts.h"
#include "layout.h"

#define ADDRESSES_MAX 4 /* the host's and the destination's, and what each hides */

/* What is asked of every stage. */
struct question {
	uint16_t port;           /* 0: unknown */
	uint16_t protocols;      /* the bit of one; 0 admits no row, but `found` says which hold */
	uint32_t host_length;    /* 0: unknown */
	uint32_t address_count;
	struct {
		uint8_t bytes[16];
		uint32_t matched;    /* enum matched, of a row that holds it */
	} addresses[ADDRESSES_MAX];
	char host[HOST_MAX + 1]; /* canonical */
	char reversed[HOST_MAX];
};

/* The rows that hold the question's host or address. */
struct found {
	const struct policy_row *row; /* that of the lowest rank which admits port and protocol, or NULL */
	uint32_t matched;             /* enum matched, of that row */
	int is_possible;              /* some row holds for some port and protocol */
	int is_certain;               /* some row holds for every port and protocol */
	uint32_t count;               /* how many hold; one is counted for each address that it holds */
	uint32_t *offsets, room;      /* where the first of them are written, from `base`; or NULL */
	const uint8_t *base;
};

/* host may be NULL/0 and destination NULL: unknown. */
void question_ask(struct question *question, const char *host, uint32_t host_length, const struct endpoint *destination);

struct found rows_find(const struct policy_rows *rows, const struct question *question);

/* Every row that holds, with its port and protocols or not: its offset from `base` to offsets[room], in no order. Returns how many
 * there are. The question must be of no protocol. */
uint32_t rows_list(const struct policy_rows *rows, const struct question *question, const void *base, uint32_t *offsets,
                   uint32_t room);

/* 1 if some row is for this very address and port, not for one hidden in it. */
int rows_hold(const struct policy_rows *rows, const struct endpoint *to);

#endif
