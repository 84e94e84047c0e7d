/* Decides whether a flow or request is spliced, handled or refused.
 *
 * Pure: no I/O, no allocation, no locks. A table (layout.h) is an ordered list of stages. The first stage whose outcome
 * isn't NEXT decides; if every outcome is NEXT, the verdict is REFUSE. C calls policy_decide() for every flow, followed
 * request and address that is dialled. Python calls the same function through cffi for each request that it serves.
 *
 * Hosts are compared in their canonical form (hosts.h). A row for a network or address matches the destination, and a
 * host that is an address; each matches by itself or by the v4 address embedded in it (addresses.h).
 * A target that takes HTTP is given only HTTP. Other traffic that reaches such a target is refused: the handler can't
 * read it, and passing it through would bypass the handler. Use PROTOCOL_NONE while the client is silent; on a port
 * whose clients speak first, NONE counts as OPAQUE.
 */
#ifndef PYINTERCEPTOR_POLICY_H
#define PYINTERCEPTOR_POLICY_H

#include <stdint.h>

#include "addresses.h"
#include "hosts.h"
#include "layout.h"

#define NO_STAGE 0xffffffff

enum verdict { VERDICT_REFUSE = 0, VERDICT_SPLICE = 1, VERDICT_HANDLE = 2 };

/* The cause of a decision. */
enum reason {
	REASON_NO_STAGE = 0,      /* the outcome of every stage was NEXT */
	REASON_MATCH = 1,         /* a row of the stage matched */
	REASON_MISS = 2,          /* no row of the stage matched */
	REASON_NOT_HTTP = 3,      /* a row matched, but its target takes HTTP and the traffic is another protocol */
};

struct decision {
	uint32_t verdict;         /* enum verdict */
	uint32_t rule;            /* rule of the matching row, or NO_RULE */
	uint32_t generation;      /* of the table; Python finds the targets and the names of rules and stages by it */
	uint32_t stage;           /* index of the stage that decided, or NO_STAGE */
	uint32_t target;          /* index of the target if the verdict is HANDLE or the reason NOT_HTTP, else NO_TARGET */
	uint32_t reason;          /* enum reason */
	uint32_t matched;         /* enum matched: how the row matched */
};

/* Returns the decision for a flow or request. `host` is the client's text and may have a port or brackets; NULL with
 * length 0 if no host is known. `destination` is the address that is dialled or is about to be; NULL if it is unknown:
 * then rows for networks match only a host that is an address, and rows for a port match nothing. */
struct decision policy_decide(const void *table, uint32_t protocol, const char *host, uint32_t host_length,
                              const struct endpoint *destination);

/* Returns the best verdict that any traffic to this name could get, over all addresses, ports and protocols: HANDLE if
 * a target could answer some of it, else SPLICE if some of it could pass, else REFUSE. */
enum verdict policy_decide_name(const void *table, const char *host, uint32_t host_length);

/* Lists the rows of a stage that match this host or destination, regardless of port and protocol. Writes each row's
 * offset in the table to offsets[room], unordered. A row that matches several addresses is listed once for each.
 * Returns the number of matches, which is above `room` if they don't fit. */
uint32_t policy_list_rows(const void *table, uint32_t stage, const char *host, uint32_t host_length,
                          const struct endpoint *destination, uint32_t *offsets, uint32_t room);

/* Returns 1 if the two decisions have the same verdict and the same rule. Both must come from one table. */
int policy_same(const struct decision *one, const struct decision *other);

/* Returns 1 if a target would answer HTTP to this host or destination, by a row for it and not by a catch-all row. */
int policy_names_host(const void *table, const char *host, uint32_t host_length, const struct endpoint *destination);

/* Returns 1 if clients of this port speak first: then nothing is dialled before the client's first bytes arrive. */
int policy_waits(const void *table, uint16_t port);

/* Returns 1 if a rule could be for the host or for this destination: a row matches one of them, regardless of port and
 * protocol, or one of them is a real address of a name that a row names exactly, by itself or embedded. While those
 * addresses aren't known, any table with rows returns 1. */
int policy_may_rule(const void *table, const char *host, uint32_t host_length, const struct endpoint *destination);

/* How an address relates to the hosts that rules name exactly, while such a host's traffic could pass. */
enum standing {
	STANDING_FREE = 0,        /* it is no real address of one */
	STANDING_RULED = 1,       /* it is one, by itself or embedded */
	STANDING_UNKNOWN = 2      /* their addresses aren't resolved yet */
};

enum standing policy_standing(const void *table, const struct endpoint *to);

/* Returns 1 if the table could decide two requests, or two protocols, on one flow differently. Such a flow is
 * followed. */
int policy_differs(const void *table);

#endif
