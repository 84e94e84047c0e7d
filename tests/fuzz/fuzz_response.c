/* Fuzzes response.c and the lenient chunks of chunks.c with arbitrary bytes. A head that arrives in pieces is framed
 * like one that arrives whole. A chunked body ends at the same byte in both. Memory
 * beyond the given bytes is never read: each piece is a copy of its own. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "chunks.h"
#include "response.h"

static uint32_t eat_copy(struct response *response, const uint8_t *bytes, uint32_t length, int to_head, enum reading *reading)
{
	uint8_t *copy = malloc(length ? length : 1);
	memcpy(copy, bytes, length);
	uint32_t eaten = response_eat(response, copy, length, to_head, reading);
	free(copy);
	if (eaten > length)
		abort();
	return eaten;
}

/* Parses `step` bytes at a time. Returns the head's length. */
static uint32_t eat_in_pieces(struct response *response, const uint8_t *bytes, uint32_t length, uint32_t step, int to_head,
                              enum reading *reading)
{
	uint32_t eaten = 0;
	*reading = READING_MORE;
	while (eaten < length && *reading == READING_MORE) {
		uint32_t there = length - eaten < step ? length - eaten : step;
		uint32_t some = eat_copy(response, bytes + eaten, there, to_head, reading);
		if (some != there && *reading == READING_MORE)
			abort();
		eaten += some;
	}
	return eaten;
}

static void check_head(const uint8_t *bytes, uint32_t length, uint32_t step, int to_head)
{
	struct response whole = {0}, pieces = {0};
	enum reading reading, again;
	uint32_t end = eat_in_pieces(&whole, bytes, length, length + 1, to_head, &reading);
	uint32_t same = eat_in_pieces(&pieces, bytes, length, step, to_head, &again);
	if (reading != again)
		abort();
	if (reading != READING_WHOLE)
		return;
	if (end != same || end < 2 || bytes[end - 1] != '\n' || memcmp(&whole, &pieces, offsetof(struct response, line)) != 0)
		abort();
	if (whole.status_code < 100 || whole.status_code > 999 || (to_head && whole.body != BODY_NONE))
		abort();
	if ((whole.body == BODY_LENGTH) != (whole.body_length > 0) || (whole.body == BODY_UNTIL_CLOSE && whole.keep_alive))
		abort();
}

static void check_chunks(const uint8_t *bytes, uint32_t length, uint32_t step)
{
	struct chunks strict = {0}, whole = {.is_lenient = 1}, pieces = {.is_lenient = 1};
	uint32_t end = chunks_eat(&whole, bytes, length), eaten = 0, some = step;
	while (eaten < length && some == step) {
		uint32_t there = length - eaten < step ? length - eaten : step;
		some = chunks_eat(&pieces, bytes + eaten, there);
		eaten += some;
		if (pieces.reading != READING_MORE)
			break;
	}
	if (whole.reading != pieces.reading || end != eaten)
		abort();
	uint32_t other = chunks_eat(&strict, bytes, length);
	if (strict.reading == READING_WHOLE && (whole.reading != READING_WHOLE || other != end))
		abort(); /* a body that is read strictly is read leniently as well, and ends at the same byte */
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	if (size == 0)
		return 0;
	uint32_t step = 1 + (bytes[0] & 31), length = (uint32_t)size - 1;
	check_head(bytes + 1, length, step, bytes[0] >> 7);
	check_chunks(bytes + 1, length, step);
	return 0;
}
