/* SPDX-License-Identifier: Apache-2.0
 *
 * Parses hosts. Owns nothing; hosts.h names the callers.
 */
#include <arpa/inet.h>
#include <string.h>

#include "addresses.h"
#include "hosts.h"

/* Strips brackets and a port: "[::1]:80" becomes "::1", "my.kv:8080" becomes "my.kv". Returns 0 if the brackets are
 * malformed. */
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

/* Requires a NUL after the text, for inet_pton(3). A v4 address ends in a digit and a v6 address has a colon: any other
 * text is a name and isn't parsed. */
int host_address(const char *text, uint32_t length, uint8_t *out)
{
	uint8_t last = length ? (uint8_t)text[length - 1] : 0;
	if (memchr(text, ':', length))
		return inet_pton(AF_INET6, text, out) == 1;
	if (last < '0' || last > '9' || inet_pton(AF_INET, text, out + 12) != 1)
		return 0;
	memset(out, 0, 10);
	out[10] = out[11] = 0xff;
	return 1;
}

static uint32_t canonical_address(const char *text, uint32_t length, char *out)
{
	uint8_t address[16];
	if (!host_address(text, length, address))
		return 0;
	const char *made = address_is_v4(address) ? inet_ntop(AF_INET, address + 12, out, HOST_MAX)
	                                          : inet_ntop(AF_INET6, address, out, HOST_MAX);
	return made ? (uint32_t)strlen(out) : 0;
}

static int is_host_byte(uint8_t byte)
{
	return (byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9') || byte == '-' || byte == '.' || byte == '_' ||
	       byte == ':';
}

uint32_t host_canonical(const char *host, uint32_t length, char *out)
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
	uint32_t address = canonical_address(folded, length, out);
	if (address)
		return address;
	if (is_bracketed || memchr(folded, ':', length))
		return 0;
	memcpy(out, folded, length + 1);
	return length;
}
