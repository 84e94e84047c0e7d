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

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	struct frame frame, shorter;
	struct chunks whole = {0}, single = {0};
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
	if (together > length || together != eaten || whole.done != single.done || whole.bad != single.bad)
		abort();
	return 0;
}
