/* SPDX-License-Identifier: Apache-2.0
 *
 * Classifies addresses as local, and finds those that a policy permits. Owns nothing. Called by dial.c.
 */
#include <stddef.h>
#include <string.h>

#include "guard.h"
#include "rows.h"

struct range {
	uint8_t address[16];
	uint8_t prefix;
};

#define V4(a, b, c, d, bits) {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d}, 96 + bits}

/* IANA's special-purpose registries, without the documentation ranges. */
static const struct range local_ranges[] = {
	V4(0, 0, 0, 0, 8),        V4(10, 0, 0, 0, 8),     V4(100, 64, 0, 0, 10), V4(127, 0, 0, 0, 8),
	V4(169, 254, 0, 0, 16),   V4(172, 16, 0, 0, 12),  V4(192, 0, 0, 0, 24),  V4(192, 168, 0, 0, 16),
	V4(192, 88, 99, 0, 24),   V4(198, 18, 0, 0, 15),  V4(224, 0, 0, 0, 4),   V4(240, 0, 0, 0, 4),
	{{0xfc}, 7},              {{0xfe, 0x80}, 10},     {{0xfe, 0xc0}, 10},    {{0xff}, 8},
	{{0x01}, 64},             /* discard-only 100::/64 */
	{{0x20, 0x01}, 32},       /* Teredo 2001::/32: its addresses embed v4 addresses */
	{{0x20, 0x01, 0, 2}, 48}, /* benchmarking 2001:2::/48 */
	{{0, 0x64, 0xff, 0x9b, 0, 1}, 48}, /* local NAT64 64:ff9b:1::/48 (RFC 8215): the v4 address' offset is the site's */
	{{0x5f}, 16},             /* segment routing 5f00::/16 */
	{{0}, 128},               {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 128},
};

#define V4_ONE(a, b, c, d) {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d}

/* The metadata services and host agents of clouds, which give credentials or control of the machine. Most are in a local
 * range as well. From the documentation of each cloud. */
static const uint8_t metadata[][16] = {
	V4_ONE(169, 254, 169, 254), /* AWS, Azure, Google, DigitalOcean, Hetzner, OpenStack, Oracle, Vultr and others */
	V4_ONE(168, 63, 129, 16),   /* Azure: WireServer, host agent and DNS, at a public address */
	V4_ONE(169, 254, 170, 2),   /* AWS: credentials of ECS tasks */
	V4_ONE(169, 254, 170, 23),  /* AWS: EKS Pod Identity */
	V4_ONE(100, 100, 100, 200), /* Alibaba */
	V4_ONE(192, 0, 0, 192),     /* Oracle, classic */
	V4_ONE(169, 254, 0, 23),    /* Tencent */
	V4_ONE(169, 254, 42, 42),   /* Scaleway */
	{0xfd, 0x00, 0x0e, 0xc2, [14] = 0x02, 0x54},             /* AWS: fd00:ec2::254 */
	{0xfd, 0x00, 0x0e, 0xc2, [15] = 0x23},                   /* AWS: EKS Pod Identity, fd00:ec2::23 */
	{0xfd, 0x20, 0x00, 0xce, [14] = 0x02, 0x54},             /* Google: fd20:ce::254 */
	{0xfd, 0x00, 0x00, 0xc1, [12] = 0xa9, 0xfe, 0xa9, 0xfe}, /* Oracle: fd00:c1::a9fe:a9fe */
	{0xfd, 0x00, 0x00, 0x42, [15] = 0x42},                   /* Scaleway: fd00:42::42 */
};

#define METADATA (sizeof metadata / sizeof *metadata)

const uint8_t *guard_metadata(uint32_t index)
{
	return index < METADATA ? metadata[index] : NULL;
}

static int is_metadata(const uint8_t *address)
{
	for (uint32_t i = 0; i < METADATA; i++)
		if (memcmp(address, metadata[i], sizeof metadata[i]) == 0)
			return 1;
	return 0;
}

static int is_in_local_range(const uint8_t *address)
{
	if (is_metadata(address))
		return 1;
	for (uint32_t i = 0; i < sizeof local_ranges / sizeof *local_ranges; i++)
		if (address_in_network(address, local_ranges[i].address, local_ranges[i].prefix))
			return 1;
	return 0;
}

int guard_is_local(const uint8_t *address)
{
	uint8_t hidden[16];
	return is_in_local_range(address) || (address_hidden(address, hidden) && is_in_local_range(hidden));
}

int guard_names(const void *table, const struct endpoint *to)
{
	const struct policy_header *header = table;
	return rows_hold((const void *)((const uint8_t *)table + header->locals), to);
}
