/* Fuzzes sniff.c with arbitrary bytes: whole, byte by byte and parsed again, sniff() stays within them and returns the
 * same result. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "sniff.h"

static void check(const struct opening *opening)
{
	if (opening->protocol == PROTOCOL_NONE || opening->host_length > HOST_MAX || opening->host[opening->host_length] != 0)
		abort();
}

/* Copies the bytes to an allocation of exactly their size, so that AddressSanitizer reports a read past their end. */
static enum reading sniff_piece(struct sniffing *so_far, const uint8_t *bytes, uint32_t length, struct opening *out)
{
	uint8_t *piece = malloc(length ? length : 1);
	memcpy(piece, bytes, length);
	enum reading reading = sniff(so_far, piece, length, out);
	free(piece);
	check(out);
	return reading;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	struct opening whole, pieces;
	struct sniffing fresh = {0}, so_far = {0};
	uint32_t length = size > 600 ? 600 : (uint32_t)size, end = 0;
	enum reading reading = READING_MORE, at_once;
	while (reading == READING_MORE && end <= length)
		reading = sniff_piece(&so_far, bytes, end++, &pieces);
	at_once = sniff_piece(&fresh, bytes, end - 1, &whole);
	if (at_once != reading || memcmp(&whole, &pieces, sizeof whole) != 0)
		abort();
	if (sniff_piece(&so_far, bytes, end - 1, &pieces) != reading || memcmp(&whole, &pieces, sizeof whole) != 0)
		abort();
	sniff_piece(&(struct sniffing){0}, bytes, size > OPENING_MAX ? OPENING_MAX : (uint32_t)size, &whole);
	return 0;
}
