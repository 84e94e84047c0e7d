/* SPDX-License-Identifier: Apache-2.0
 *
 * Compares addresses, and extracts embedded v4 addresses. Owns nothing; addresses.h names the callers.
 */
#include <string.h>

#include "addresses.h"

static const uint8_t v4_mapped[12] = {[10] = 0xff, [11] = 0xff};

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

int address_hidden(const uint8_t *address, uint8_t *out)
{
	static const uint8_t one[16] = {[15] = 1}, none[16] = {0};
	static const uint8_t nat64[12] = {0, 0x64, 0xff, 0x9b}, translated[12] = {[8] = 0xff, [9] = 0xff}, compatible[12] = {0};
	const uint8_t *inner;
	if (memcmp(address, none, 16) == 0 || memcmp(address, one, 16) == 0)
		return 0;
	if (address[0] == 0x20 && address[1] == 0x02)
		inner = address + 2; /* 6to4 */
	else if (memcmp(address, nat64, 12) == 0 || memcmp(address, translated, 12) == 0 || memcmp(address, compatible, 12) == 0)
		inner = address + 12;
	else
		return 0;
	memcpy(out, v4_mapped, sizeof v4_mapped);
	memcpy(out + 12, inner, 4);
	return 1;
}
