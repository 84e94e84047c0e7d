/* What may this flow or request do?
 *
 * Pure: no I/O, no allocation, no locks. A table is one flat, immutable blob that pyinterceptor/policy/table.py
 * writes; policy_check() proves once that every offset is inside, after that it is only read. C calls decide() for
 * every flow and followed request, Python calls the same function through cffi for each of its own.
 *
 * The order: exact host > exact destination address > glob (most literal bytes first, then order of declaration)
 * > catch-all > internet (SPLICE) > REFUSE. Hosts are compared case-folded, without a trailing dot, port or
 * brackets; an IP literal is compared in its canonical text form (inet_ntop), v4-mapped as v4.
 * Handlers answer HTTP. So a rule that matches gives: HTTP -> HANDLE; TLS, HTTP2 and OPAQUE -> REFUSE: a handler that can't be
 * shown the request must not be walked round, and what a lenient server may take for HTTP is more than can be listed. NONE, while
 * the client is silent or after the server has spoken first, which none of HTTP does: on a port whose clients speak first as
 * OPAQUE, elsewhere rules don't hold: internet ? SPLICE : REFUSE.
 */
#ifndef PYINTERCEPTOR_POLICY_H
#define PYINTERCEPTOR_POLICY_H

#include <stdint.h>

#define HOST_MAX 255          /* bytes, RFC 1035 section 2.3.4; longer hosts match nothing but the catch-all */
#define POLICY_MAGIC 0x50494354
#define NO_RULE 0xffffffff

enum protocol { PROTOCOL_NONE = 0, PROTOCOL_HTTP = 1, PROTOCOL_TLS = 2, PROTOCOL_HTTP2 = 3, PROTOCOL_OPAQUE = 4 };
enum verdict { VERDICT_REFUSE = 0, VERDICT_SPLICE = 1, VERDICT_HANDLE = 2 };

/* Flags of a table. */
#define POLICY_INTERNET 1     /* enable_internet */
#define POLICY_CATCH_ALL 2    /* an `outbound` handler exists; its rule id is catch_all */

/* All offsets are bytes from the start of the blob, host byte order, 4-aligned. */
struct policy_header {
	uint32_t magic;
	uint32_t size;            /* of the whole blob, bytes */
	uint32_t generation;
	uint32_t flags;
	uint32_t catch_all;       /* rule id, or NO_RULE */
	uint32_t exact_count;
	uint32_t exact_offset;    /* struct policy_pattern[], sorted by memcmp of the text, then length */
	uint32_t glob_count;
	uint32_t glob_offset;     /* struct policy_pattern[], in the order they are tried */
	uint32_t local_count;
	uint32_t local_offset;    /* struct policy_network[]: what local_networks names */
};

struct policy_pattern {
	uint32_t text_offset;
	uint16_t text_length;
	uint16_t reserved;
	uint32_t rule;
};

struct policy_network {
	uint8_t address[16];      /* v4 as v4-mapped */
	uint8_t prefix;           /* bits, 0..128 (v4: 96 + its own) */
	uint8_t reserved;
	uint16_t port;            /* 0: any */
};

/* An address and port as every part of the extension speaks of them: v4 as v4-mapped, port in host order. */
struct endpoint {
	uint8_t address[16];
	uint16_t port;
	uint16_t reserved;
};

struct decision {
	uint32_t verdict;         /* enum verdict */
	uint32_t rule;            /* id of the rule that decided, or NO_RULE (internet or nothing) */
	uint32_t generation;
};

/* 1 if the blob of `size` bytes is a well-formed table, else 0. */
int policy_check(const void *table, uint32_t size);

/* Host may be NULL/0 where none is known. It may carry a port or brackets: they are stripped here. */
struct decision policy_decide(const void *table, uint32_t protocol, const char *host, uint32_t host_length,
                              const struct endpoint *destination);

/* 1 if a rule names this host or destination, rather than the catch-all. */
int policy_names_host(const void *table, const char *host, uint32_t host_length, const struct endpoint *destination);

/* 1 for the ports whose clients speak first, 80 and 443. */
int policy_client_speaks_first(uint16_t port);

/* 1 if some request on one HTTP flow could be decided differently from another: such a flow is followed. */
int policy_differs(const void *table);

/* The canonical form of a host as decide() compares it, into out[HOST_MAX + 1] (NUL-terminated). Returns its length,
 * 0 if it is empty, too long or not a host. */
uint32_t policy_canonical_host(const char *host, uint32_t length, char *out);

/* 1 if the table's local_networks name this address and port. */
int policy_names_address(const void *table, const struct endpoint *to);

/* May we connect there? The pure half of the dial guard (DESIGN.md, decision 6): unspecified, loopback, link-local,
 * private, CGNAT, multicast, broadcast, 0/8, 240/4, synthetic 198.18/15, ULA, and the v4-mapped, NAT64 (64:ff9b::/96), 6to4 and
 * v4-compatible forms of these, are refused unless the table's local_networks names them (with that port).
 * table may be NULL: then nothing local is named. Documentation ranges are ordinary addresses. */
int policy_may_dial(const void *table, const struct endpoint *to);

#endif
