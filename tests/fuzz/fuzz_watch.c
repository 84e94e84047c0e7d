/* Fuzzes watch.c: whole and byte by byte, it finds the same authorities. */
#include <stdlib.h>
#include <string.h>

#include "watch.h"

static uint32_t sum(uint32_t so_far, const struct watch *watch)
{
	if (strlen(watch->authority) > AUTHORITY_MAX)
		abort();
	for (const char *at = watch->authority; *at; at++)
		so_far = so_far * 31 + (uint8_t)*at;
	return so_far * 31 + 1;
}

static uint32_t eat(const uint8_t *bytes, uint32_t size, uint32_t piece, uint8_t *has_binary)
{
	struct watch watch = {0};
	uint32_t found = 0;
	for (uint32_t at = 0; at < size;) {
		uint32_t some = size - at < piece ? size - at : piece, eaten = watch_eat(&watch, bytes + at, some);
		if (eaten > some || (eaten < some && !watch.is_asked))
			abort();
		at += eaten;
		if (watch.is_asked)
			found = sum(found, &watch);
	}
	*has_binary = watch.has_binary;
	return found;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	uint8_t whole, single;
	if (eat(bytes, (uint32_t)size, UINT32_MAX, &whole) != eat(bytes, (uint32_t)size, 1, &single) || whole != single)
		abort();
	return 0;
}
