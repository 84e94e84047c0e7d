/* The representation of addresses in the whole extension, and the v4 addresses embedded in v6 ones.
 *
 * Pure. Called by every file that compares addresses: hosts, rows, guard, dial, route.
 */
#ifndef PYINTERCEPTOR_ADDRESSES_H
#define PYINTERCEPTOR_ADDRESSES_H

#include <stdint.h>

/* An address and port. v4 as v4-mapped; the port in host byte order. */
struct endpoint {
	uint8_t address[16];
	uint16_t port;
	uint16_t reserved;
};

/* Returns 1 if the 16 bytes are a v4-mapped address. */
int address_is_v4(const uint8_t *address);

/* Returns 1 if the first `bits` (0 to 128) bits of both are equal. */
int address_in_network(const uint8_t *address, const uint8_t *network, uint32_t bits);

/* Writes the v4 address embedded in a translated address to out[16], as v4-mapped: NAT64 64:ff9b::/96 (RFC 6052), SIIT
 * ::ffff:0:0:0/96 (RFC 7915), 6to4 2002::/16 (RFC 3056), v4-compatible ::/96 (RFC 4291) except :: and ::1, and the
 * network's own NAT64 prefixes. Returns 1,
 * or 0 if the address embeds none. A v4-mapped address embeds none: it is the form of a v4 address here. */
int address_hidden(const uint8_t *address, uint8_t *out);

#define NAT64_MAX 16

/* Adds a NAT64 prefix of the host's network, of 32, 40, 48, 56, 64 or 96 bits (RFC 6052 section 2.2), to those that
 * address_hidden() extracts from, for the life of the process. May be called from any thread. Returns 1; 0 if the
 * length is another, or the table is full. */
int address_add_nat64(const uint8_t *prefix, uint32_t bits);

#endif
