/* SPDX-License-Identifier: Apache-2.0
 *
 * Decides what a flow or request may do. Owns nothing; see policy.h for the order of rules.
 */
#include <arpa/inet.h>
#include <string.h>

#include "policy.h"

static const uint8_t v4_mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

static int is_v4(const uint8_t address[16])
{
	return memcmp(address, v4_mapped, sizeof v4_mapped) == 0;
}

/* An array of `count` items of `size` bytes at `offset` lies inside the blob and is aligned. */
static int fits(uint32_t total, uint32_t offset, uint32_t count, uint32_t size)
{
	return offset % 4 == 0 && offset <= total && count <= (total - offset) / size;
}

static int patterns_fit(const uint8_t *blob, uint32_t size, uint32_t offset, uint32_t count)
{
	if (!fits(size, offset, count, sizeof(struct policy_pattern)))
		return 0;
	const struct policy_pattern *patterns = (const void *)(blob + offset);
	for (uint32_t i = 0; i < count; i++)
		if (patterns[i].text_offset > size || patterns[i].text_length > size - patterns[i].text_offset)
			return 0;
	return 1;
}

int policy_check(const void *table, uint32_t size)
{
	const struct policy_header *header = table;
	if (size < sizeof *header || header->magic != POLICY_MAGIC || header->size != size)
		return 0;
	return patterns_fit(table, size, header->exact_offset, header->exact_count) &&
	       patterns_fit(table, size, header->glob_offset, header->glob_count) &&
	       fits(size, header->local_offset, header->local_count, sizeof(struct policy_network));
}

/* ---- hosts ---- */

/* Strips brackets and a port: what is left of "[::1]:80", "my.kv:8080", "my.kv". Returns 0 where that can't be read. */
static int bare_host(const char **host, uint32_t *length)
{
	const char *text = *host, *end = text + *length;
	if (*length && *text == '[') {
		const char *close = memchr(text, ']', *length);
		if (!close || (close + 1 != end && close[1] != ':'))
			return 0;
		*host = text + 1;
		*length = (uint32_t)(close - text - 1);
		return 1;
	}
	const char *colon = memchr(text, ':', *length);
	if (colon && !memchr(colon + 1, ':', (size_t)(end - colon - 1)))
		*length = (uint32_t)(colon - text);
	return 1;
}

/* The text inet_ntop gives, so that one address has one spelling. 0 if the text is no address. */
static uint32_t canonical_address(const char *text, char *out)
{
	uint8_t v6[16];
	struct in_addr v4;
	if (inet_pton(AF_INET, text, &v4) == 1)
		return inet_ntop(AF_INET, &v4, out, HOST_MAX) ? (uint32_t)strlen(out) : 0;
	if (inet_pton(AF_INET6, text, v6) != 1)
		return 0;
	const char *made = is_v4(v6) ? inet_ntop(AF_INET, v6 + 12, out, HOST_MAX) : inet_ntop(AF_INET6, v6, out, HOST_MAX);
	return made ? (uint32_t)strlen(out) : 0;
}

static int is_host_byte(uint8_t byte)
{
	return (byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9') || byte == '-' || byte == '.' || byte == '_' ||
	       byte == ':';
}

uint32_t policy_canonical_host(const char *host, uint32_t length, char *out)
{
	char folded[HOST_MAX + 1];
	int is_bracketed = length && host && *host == '[';
	if (!host || !bare_host(&host, &length))
		return 0;
	if (length && host[length - 1] == '.')
		length--;
	if (length == 0 || length > HOST_MAX)
		return 0;
	for (uint32_t i = 0; i < length; i++) {
		uint8_t byte = (uint8_t)host[i];
		if (byte >= 'A' && byte <= 'Z')
			byte += 'a' - 'A';
		int is_empty_label = byte == '.' && (i == 0 || host[i - 1] == '.' || i + 1 == length);
		if (!is_host_byte(byte) || is_empty_label)
			return 0;
		folded[i] = (char)byte;
	}
	folded[length] = 0;
	uint32_t address = canonical_address(folded, out);
	if (address)
		return address;
	if (is_bracketed || memchr(folded, ':', length))
		return 0;
	memcpy(out, folded, length + 1);
	return length;
}

/* ---- rules ---- */

static uint32_t find_exact(const uint8_t *blob, const char *host, uint32_t length)
{
	const struct policy_header *header = (const void *)blob;
	const struct policy_pattern *patterns = (const void *)(blob + header->exact_offset);
	uint32_t low = 0, high = header->exact_count;
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		uint32_t other = patterns[middle].text_length;
		int order = memcmp(host, blob + patterns[middle].text_offset, length < other ? length : other);
		if (order == 0)
			order = length < other ? -1 : length > other;
		if (order == 0)
			return patterns[middle].rule;
		if (order < 0)
			high = middle;
		else
			low = middle + 1;
	}
	return NO_RULE;
}

/* `*` stands for any run of bytes. Only the last star is ever tried again, so time is at most length * pattern. */
static int glob_matches(const char *pattern, uint32_t pattern_length, const char *host, uint32_t length)
{
	uint32_t p = 0, h = 0, star = UINT32_MAX, resume = 0;
	while (h < length) {
		if (p < pattern_length && pattern[p] == '*') {
			star = p++;
			resume = h;
		} else if (p < pattern_length && pattern[p] == host[h]) {
			p++;
			h++;
		} else if (star != UINT32_MAX) {
			p = star + 1;
			h = ++resume;
		} else {
			return 0;
		}
	}
	while (p < pattern_length && pattern[p] == '*')
		p++;
	return p == pattern_length;
}

static uint32_t find_glob(const uint8_t *blob, const char *host, uint32_t length)
{
	const struct policy_header *header = (const void *)blob;
	const struct policy_pattern *globs = (const void *)(blob + header->glob_offset);
	for (uint32_t i = 0; i < header->glob_count; i++)
		if (glob_matches((const char *)blob + globs[i].text_offset, globs[i].text_length, host, length))
			return globs[i].rule;
	return NO_RULE;
}

static uint32_t find_rule(const uint8_t *blob, const char *host, uint32_t length, const struct endpoint *destination)
{
	const struct policy_header *header = (const void *)blob;
	char name[HOST_MAX + 1], address[INET6_ADDRSTRLEN];
	uint32_t name_length = length ? policy_canonical_host(host, length, name) : 0;
	uint32_t rule = name_length ? find_exact(blob, name, name_length) : NO_RULE;
	if (rule == NO_RULE && destination && header->exact_count) {
		const uint8_t *bytes = destination->address;
		if (is_v4(bytes) ? inet_ntop(AF_INET, bytes + 12, address, sizeof address)
		                 : inet_ntop(AF_INET6, bytes, address, sizeof address))
			rule = find_exact(blob, address, (uint32_t)strlen(address));
	}
	if (rule == NO_RULE && name_length)
		rule = find_glob(blob, name, name_length);
	return rule;
}

int policy_names_host(const void *table, const char *host, uint32_t host_length, const struct endpoint *destination)
{
	return find_rule(table, host, host_length, destination) != NO_RULE;
}

int policy_client_speaks_first(uint16_t port)
{
	return port == 80 || port == 443;
}

struct decision policy_decide(const void *table, uint32_t protocol, const char *host, uint32_t host_length,
                              const struct endpoint *destination)
{
	const struct policy_header *header = table;
	struct decision decision = {VERDICT_REFUSE, NO_RULE, header->generation};
	if (protocol != PROTOCOL_NONE || (destination && policy_client_speaks_first(destination->port))) {
		decision.rule = find_rule(table, host, host_length, destination);
		if (decision.rule == NO_RULE && header->flags & POLICY_CATCH_ALL)
			decision.rule = header->catch_all;
	}
	if (decision.rule != NO_RULE)
		decision.verdict = protocol == PROTOCOL_HTTP ? VERDICT_HANDLE : VERDICT_REFUSE;
	else if (header->flags & POLICY_INTERNET)
		decision.verdict = VERDICT_SPLICE;
	return decision;
}

int policy_differs(const void *table)
{
	const struct policy_header *header = table;
	return header->exact_count || header->glob_count || header->flags & POLICY_CATCH_ALL;
}

/* ---- the dial guard ---- */

struct range {
	uint8_t address[16];
	uint8_t prefix;
};

#define V4(a, b, c, d, bits) {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d}, 96 + bits}

/* IANA's special-purpose registries, less the documentation ranges. */
static const struct range local_ranges[] = {
	V4(0, 0, 0, 0, 8),        V4(10, 0, 0, 0, 8),     V4(100, 64, 0, 0, 10), V4(127, 0, 0, 0, 8),
	V4(169, 254, 0, 0, 16),   V4(172, 16, 0, 0, 12),  V4(192, 0, 0, 0, 24),  V4(192, 168, 0, 0, 16),
	V4(192, 88, 99, 0, 24),   V4(198, 18, 0, 0, 15),  V4(224, 0, 0, 0, 4),   V4(240, 0, 0, 0, 4),
	{{0xfc}, 7},              {{0xfe, 0x80}, 10},     {{0xfe, 0xc0}, 10},    {{0xff}, 8},
	{{0x01}, 64},             /* discard-only 100::/64 */
	{{0x20, 0x01}, 32},       /* Teredo 2001::/32, whose addresses hide v4 ones */
	{{0x20, 0x01, 0, 2}, 48}, /* benchmarking 2001:2::/48 */
	{{0, 0x64, 0xff, 0x9b, 0, 1}, 48}, /* local NAT64 64:ff9b:1::/48 (RFC 8215): where in it the v4 address is, the site says */
	{{0x5f}, 16},             /* segment routing 5f00::/16 */
	{{0}, 128},               {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 128},
};

static int in_prefix(const uint8_t address[16], const uint8_t network[16], uint32_t bits)
{
	uint32_t whole = bits / 8, rest = bits % 8;
	if (memcmp(address, network, whole) != 0)
		return 0;
	return rest == 0 || ((address[whole] ^ network[whole]) & (uint8_t)(0xff00 >> rest)) == 0;
}

/* The v4 address inside a translated form, as v4-mapped: NAT64 (RFC 6052), SIIT (RFC 7915), 6to4 (RFC 3056), v4-compatible
 * (RFC 4291). */
static int embedded_v4(const uint8_t address[16], uint8_t out[16])
{
	static const uint8_t nat64[16] = {0, 0x64, 0xff, 0x9b};
	static const uint8_t sixto4[16] = {0x20, 0x02}, compatible[16] = {0}, translated[16] = {[8] = 0xff, [9] = 0xff};
	memcpy(out, v4_mapped, sizeof v4_mapped);
	if (in_prefix(address, sixto4, 16))
		memcpy(out + 12, address + 2, 4);
	else if (in_prefix(address, nat64, 96) || in_prefix(address, compatible, 96) || in_prefix(address, translated, 96))
		memcpy(out + 12, address + 12, 4);
	else
		return 0;
	return 1;
}

static int is_local(const uint8_t address[16])
{
	uint8_t inner[16];
	for (uint32_t i = 0; i < sizeof local_ranges / sizeof *local_ranges; i++)
		if (in_prefix(address, local_ranges[i].address, local_ranges[i].prefix))
			return 1;
	return embedded_v4(address, inner) && is_local(inner);
}

int policy_names_address(const void *table, const struct endpoint *to)
{
	const struct policy_header *header = table;
	const struct policy_network *networks = (const void *)((const uint8_t *)table + header->local_offset);
	for (uint32_t i = 0; i < header->local_count; i++)
		if (networks[i].prefix <= 128 && (networks[i].port == 0 || networks[i].port == to->port) &&
		    in_prefix(to->address, networks[i].address, networks[i].prefix))
			return 1;
	return 0;
}

int policy_may_dial(const void *table, const struct endpoint *to)
{
	return !is_local(to->address) || (table && policy_names_address(table, to));
}
