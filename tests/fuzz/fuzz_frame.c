/* Any bytes: a framed head ends inside them with a blank line, a plain one says the same however it arrives, and a chunked body
 * is eaten to the same place in one piece and byte by byte. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "policy.h"
#include "frame.h"

static void check_head(const uint8_t *bytes, uint32_t length, const struct frame *frame)
{
	if (frame->status == FRAME_BAD && (!frame->reason || !frame->answer))
		abort();
	if (frame->status != FRAME_PLAIN && frame->status != FRAME_LEGAL)
		return;
	if (frame->head_length < 4 || frame->head_length > length || memcmp(bytes + frame->head_length - 4, "\r\n\r\n", 4) != 0)
		abort();
}

/* As a flow is followed: a look at what is there, then chunk data that passes unseen. */
static uint32_t eat_as_followed(struct chunks *state, const uint8_t *bytes, uint32_t length)
{
	uint32_t eaten = 0;
	while (eaten < length && !state->done && !state->bad) {
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
	struct frame frame, shorter;
	struct chunks whole = {0}, single = {0}, followed = {0};
	uint32_t length = (uint32_t)size, eaten = 0;
	frame_request(bytes, length, &frame);
	check_head(bytes, length, &frame);
	if (frame.status == FRAME_PLAIN || frame.status == FRAME_LEGAL) {
		frame_request(bytes, frame.head_length - 1, &shorter);
		if (shorter.status != FRAME_MORE)
			abort();
	}
	frame_response(bytes, length, size & 1, &frame);
	check_head(bytes, length, &frame);
	uint32_t together = chunks_eat(&whole, bytes, length);
	while (eaten < length && chunks_eat(&single, bytes + eaten, 1) == 1)
		eaten++;
	if (eat_as_followed(&followed, bytes, length) != together || followed.done != whole.done || followed.bad != whole.bad)
		abort();
	if (together > length || together != eaten || whole.done != single.done || whole.bad != single.bad)
		abort();
	return 0;
}
