/* SPDX-License-Identifier: Apache-2.0
 *
 * Compares addresses, and extracts embedded v4 addresses. Owns nothing; addresses.h names the callers.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "addresses.h"

static const uint8_t v4_mapped[12] = {[10] = 0xff, [11] = 0xff};

/* The network's own NAT64 prefixes. One below `nat64_count` never changes, so that threads read it without a lock. */
struct nat64 {
	uint8_t prefix[16];
	uint32_t bits;
};

static struct nat64 nat64s[NAT64_MAX];
static atomic_uint nat64_count;
static pthread_mutex_t nat64_lock = PTHREAD_MUTEX_INITIALIZER;

int address_is_v4(const uint8_t *address)
{
	return memcmp(address, v4_mapped, sizeof v4_mapped) == 0;
}

int address_in_network(const uint8_t *address, const uint8_t *network, uint32_t bits)
{
	uint32_t whole = bits / 8, rest = bits % 8;
	if (memcmp(address, network, whole) != 0)
		return 0;
	return rest == 0 || ((address[whole] ^ network[whole]) & (uint8_t)(0xff00 >> rest)) == 0;
}

static int is_nat64_length(uint32_t bits)
{
	return bits == 96 || (bits >= 32 && bits <= 64 && bits % 8 == 0);
}

int address_add_nat64(const uint8_t *prefix, uint32_t bits)
{
	int is_known = 0;
	if (!is_nat64_length(bits))
		return 0;
	pthread_mutex_lock(&nat64_lock);
	uint32_t count = atomic_load(&nat64_count);
	for (uint32_t i = 0; i < count; i++)
		is_known |= nat64s[i].bits == bits && address_in_network(prefix, nat64s[i].prefix, bits);
	int has_room = count < NAT64_MAX;
	if (!is_known && has_room) {
		memcpy(nat64s[count].prefix, prefix, 16);
		nat64s[count].bits = bits;
		atomic_store(&nat64_count, count + 1);
	}
	pthread_mutex_unlock(&nat64_lock);
	return is_known || has_room;
}

/* Writes the four bytes of the v4 address after the prefix; byte 8 of the address is none of them. */
static int hidden_in_nat64(const uint8_t *address, uint8_t *v4)
{
	uint32_t count = atomic_load(&nat64_count);
	for (uint32_t i = 0; i < count; i++) {
		if (!address_in_network(address, nat64s[i].prefix, nat64s[i].bits))
			continue;
		for (uint32_t at = nat64s[i].bits / 8, byte = 0; byte < 4; at++)
			if (at != 8)
				v4[byte++] = address[at];
		return 1;
	}
	return 0;
}

int address_hidden(const uint8_t *address, uint8_t *out)
{
	static const uint8_t one[16] = {[15] = 1}, none[16] = {0};
	static const uint8_t nat64[12] = {0, 0x64, 0xff, 0x9b}, translated[12] = {[8] = 0xff, [9] = 0xff}, compatible[12] = {0};
	uint8_t v4[4];
	const uint8_t *inner;
	if (memcmp(address, none, 16) == 0 || memcmp(address, one, 16) == 0)
		return 0;
	if (address[0] == 0x20 && address[1] == 0x02)
		inner = address + 2; /* 6to4 */
	else if (memcmp(address, nat64, 12) == 0 || memcmp(address, translated, 12) == 0 || memcmp(address, compatible, 12) == 0)
		inner = address + 12;
	else if (hidden_in_nat64(address, v4))
		inner = v4;
	else
		return 0;
	memcpy(out, v4_mapped, sizeof v4_mapped);
	memcpy(out + 12, inner, 4);
	return 1;
}
