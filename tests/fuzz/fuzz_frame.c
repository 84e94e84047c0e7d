/* Fuzzes frame.c and chunks.c with arbitrary bytes. A framed head ends within them, with a blank line. The result is the same for a
 * head that arrives whole or byte by byte. A chunked body ends at the same byte in one piece, in pieces and byte by
 * byte. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "chunks.h"
#include "frame.h"

static void check_head(const uint8_t *bytes, uint32_t length, enum reading reading, const struct frame *frame)
{
	if (reading == READING_BAD && (!frame->reason || !frame->answer))
		abort();
	if (reading != READING_WHOLE)
		return;
	if (frame->head_length < 4 || frame->head_length > length || memcmp(bytes + frame->head_length - 4, "\r\n\r\n", 4) != 0)
		abort();
	if (frame->target_at + frame->target_length > frame->head_length || frame->method_length > frame->head_length)
		abort();
}

/* Byte by byte, the first result other than READING_MORE comes at the same byte as with a fresh parse, and is the
 * same. */
static void check_pieces(const uint8_t *bytes, uint32_t length)
{
	struct head so_far = {0}, fresh = {0};
	struct frame pieces, whole;
	enum reading reading = READING_MORE;
	uint32_t end = 0;
	while (reading == READING_MORE && end <= length)
		reading = frame_request(&so_far, bytes, end++, &pieces);
	if (frame_request(&fresh, bytes, end - 1, &whole) != reading || memcmp(&whole, &pieces, sizeof whole) != 0)
		abort();
	if (frame_request(&so_far, bytes, end - 1, &pieces) != reading || memcmp(&whole, &pieces, sizeof whole) != 0)
		abort();
	check_head(bytes, end - 1, reading, &whole);
	if (end > 1 && frame_request(&(struct head){0}, bytes, end - 2, &whole) != READING_MORE)
		abort();
}

/* Parses as follow.c does: a few bytes, then chunk data is skipped unread. */
static uint32_t eat_as_followed(struct chunks *state, const uint8_t *bytes, uint32_t length)
{
	uint32_t eaten = 0;
	while (eaten < length && state->reading == READING_MORE) {
		uint32_t there = length - eaten < 7 ? length - eaten : 7;
		eaten += chunks_eat(state, bytes + eaten, there);
		uint64_t ahead = chunks_ahead(state);
		if (ahead > length - eaten)
			ahead = length - eaten;
		chunks_skip(state, ahead);
		eaten += (uint32_t)ahead;
	}
	return eaten;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	struct chunks whole = {0}, single = {0}, followed = {0};
	uint32_t length = (uint32_t)size, eaten = 0;
	check_pieces(bytes, length);
	uint32_t together = chunks_eat(&whole, bytes, length);
	while (eaten < length && chunks_eat(&single, bytes + eaten, 1) == 1)
		eaten++;
	if (eat_as_followed(&followed, bytes, length) != together || followed.reading != whole.reading)
		abort();
	if (together > length || together != eaten || whole.reading != single.reading)
		abort();
	return 0;
}
