/* Addresses as every part of the extension speaks of them, and the addresses hidden in others.
 *
 * Pure. Called by whoever compares addresses: policy, guard, dial.
 */
#ifndef PYINTERCEPTOR_ADDRESSES_H
#define PYINTERCEPTOR_ADDRESSES_H

#include <stdint.h>

/* v4 as v4-mapped, port in host order. */
struct endpoint {
	uint8_t address[16];
	uint16_t port;
	uint16_t reserved;
};

/* 1 if the 16 bytes are a v4 address. */
int address_is_v4(const uint8_t *address);

/* 1 if the first `bits` (0 to 128) of both are the same. */
int address_in_network(const uint8_t *address, const uint8_t *network, uint32_t bits);

/* The v4 address inside a translated form, as v4-mapped, into out[16]: NAT64 64:ff9b::/96 (RFC 6052), SIIT ::ffff:0:0:0/96
 * (RFC 7915), 6to4 2002::/16 (RFC 3056), v4-compatible ::/96 (RFC 4291) but :: and ::1. Returns 0 if the
 * address hides none. (v4-mapped is how a v4 address is written here: it hides nothing.) */
int address_hidden(const uint8_t *address, uint8_t *out);

#endif
