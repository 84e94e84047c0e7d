/* What may this flow or request do?
 *
 * Pure: no I/O, no allocation, no locks. A table (layout.h) is an ordered list of stages. The first stage that doesn't go on
 * answers; where all go on, the answer is REFUSE. C calls policy_decide() for every flow, followed request and address that is
 * dialled, Python calls the same function through cffi for each request of its own.
 *
 * Hosts are compared in their canonical form (hosts.h). A row for a network or address holds the destination and a host that is an
 * address, each by itself or by the v4 address hidden in it (addresses.h).
 * A target that takes HTTP answers HTTP alone. Anything else that reaches one is refused: a handler that can't be shown the traffic
 * must not be walked round. NONE is asked while the client is silent; on a port whose clients speak first it counts as OPAQUE.
 */
#ifndef PYINTERCEPTOR_POLICY_H
#define PYINTERCEPTOR_POLICY_H

#include <stdint.h>

#include "addresses.h"
#include "hosts.h"
#include "layout.h"

#define NO_STAGE 0xffffffff

enum verdict { VERDICT_REFUSE = 0, VERDICT_SPLICE = 1, VERDICT_HANDLE = 2 };

/* Why a decision came out as it did. */
enum reason {
	REASON_NO_STAGE = 0,      /* every stage went on */
	REASON_MATCH = 1,         /* a row of the stage matched */
	REASON_MISS = 2,          /* no row of the stage matched */
	REASON_NOT_HTTP = 3,      /* a row matched whose target takes HTTP, and this is something else */
};

struct decision {
	uint32_t verdict;         /* enum verdict */
	uint32_t rule;            /* that of the row which decided, or NO_RULE */
	uint32_t generation;      /* of the table: by it Python finds the names of rules and stages, and the targets */
	uint32_t stage;           /* index of the stage that answered, or NO_STAGE */
	uint32_t target;          /* index of it if the verdict is HANDLE or the reason NOT_HTTP, else NO_TARGET */
	uint32_t reason;          /* enum reason */
	uint32_t matched;         /* enum matched: how the row matched */
};

/* The decision for a flow or request. Host is as it came: it may be NULL/0 where none is known, and carry a port or brackets.
 * destination is the address that is dialled, or one that is about to be; NULL where it is unknown: then rows for networks match
 * a host that is an address, and rows for a port match nothing. */
struct decision policy_decide(const void *table, uint32_t protocol, const char *host, uint32_t host_length,
                              const struct endpoint *destination);

/* The best that anything sent to this name could get, whatever its address, port and protocol: HANDLE if a target could answer
 * some of it, else SPLICE if some of it could pass, else REFUSE. */
enum verdict policy_decide_name(const void *table, const char *host, uint32_t host_length);

/* The rows of a stage that hold this host or destination, whatever their port and protocols: each one's offset in the table, to
 * offsets[room], in no order. One is written for each address that it holds. Returns how many there are, more than `room` if they
 * don't fit. */
uint32_t policy_list_rows(const void *table, uint32_t stage, const char *host, uint32_t host_length,
                          const struct endpoint *destination, uint32_t *offsets, uint32_t room);

/* 1 if both decisions, of one table, have the same verdict by the same rule. */
int policy_same(const struct decision *one, const struct decision *other);

/* 1 if a target would answer HTTP to this host or destination by a row that names it, rather than by one for all. */
int policy_names_host(const void *table, const char *host, uint32_t host_length, const struct endpoint *destination);

/* 1 for a port whose clients speak first: nothing is dialled before the client's first bytes have come. */
int policy_waits(const void *table, uint16_t port);

/* 1 if one request, or protocol, on a flow could be decided differently from another: such a flow is followed. */
int policy_differs(const void *table);

#endif
