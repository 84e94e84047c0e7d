/* SPDX-License-Identifier: Apache-2.0
 *
 * Parses the framing of chunked bodies (RFC 9112 section 7.1). Owns nothing; chunks.h names the callers.
 */
#include "chunks.h"
#include "slice.h"

enum { SIZE, SIZE_MORE, PADDING, EXTENSION, SIZE_LF, DATA, DATA_CR, DATA_LF, TRAILER_START, TRAILER, TRAILER_LF, END_LF };

static int hex(uint8_t byte)
{
	if (byte >= '0' && byte <= '9')
		return byte - '0';
	byte |= 0x20;
	return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : -1;
}

/* Returns 1 if the byte may stand in an extension or a trailer. */
static int is_line_byte(const struct chunks *state, uint8_t byte)
{
	if (state->is_lenient)
		return byte != '\n';
	return (byte >= 0x20 && byte != 0x7f) || byte == '\t';
}

/* Counts a byte of an extension or trailer. Returns 1 if it is within the limit, which only strict parsing has. */
static int is_within(struct chunks *state, uint32_t limit)
{
	return ++state->seen <= limit || state->is_lenient;
}

static int is_trailer_start(const struct chunks *state, uint8_t byte)
{
	return state->is_lenient ? byte != '\n' : is_token_byte(byte);
}

static int after_size(uint8_t byte)
{
	return byte == ';' ? EXTENSION : byte == '\r' ? SIZE_LF : -1;
}

/* Parses one byte of framing. Returns the next state, or -1 if the byte is invalid here. */
static int next_state(struct chunks *state, uint8_t byte)
{
	switch (state->state) {
	case SIZE:
	case SIZE_MORE:
		if (hex(byte) >= 0) {
			if (state->remaining >> 58)
				return -1;
			state->remaining = state->remaining * 16 + (uint64_t)hex(byte);
			return SIZE_MORE;
		}
		if (state->state == SIZE)
			return state->is_lenient && is_blank(byte) ? SIZE : -1;
		state->seen = 0;
		return state->is_lenient && is_blank(byte) ? PADDING : after_size(byte);
	case PADDING:
		return is_blank(byte) ? PADDING : after_size(byte);
	case EXTENSION:
		if (byte == '\r')
			return SIZE_LF;
		return is_line_byte(state, byte) && is_within(state, CHUNK_EXTENSION_MAX) ? EXTENSION : -1;
	case SIZE_LF:
		state->seen = 0;
		return byte != '\n' ? -1 : state->remaining ? DATA : TRAILER_START;
	case DATA_CR:
		return byte == '\r' ? DATA_LF : -1;
	case DATA_LF:
		return byte == '\n' ? SIZE : -1;
	case TRAILER_START:
		if (byte == '\r')
			return END_LF;
		return is_trailer_start(state, byte) && is_within(state, HEAD_MAX) ? TRAILER : -1;
	case TRAILER:
		if (byte == '\r')
			return TRAILER_LF;
		return is_line_byte(state, byte) && is_within(state, HEAD_MAX) ? TRAILER : -1;
	case TRAILER_LF:
		return byte == '\n' ? TRAILER_START : -1;
	default: /* END_LF */
		if (byte != '\n')
			return -1;
		state->reading = READING_WHOLE;
		return END_LF;
	}
}

uint64_t chunks_ahead(const struct chunks *state)
{
	return state->state == DATA ? state->remaining : 0;
}

void chunks_skip(struct chunks *state, uint64_t count)
{
	state->remaining -= count;
	if (count && state->remaining == 0)
		state->state = DATA_CR;
}

uint32_t chunks_eat(struct chunks *state, const uint8_t *bytes, uint32_t length)
{
	uint32_t eaten = 0;
	while (eaten < length && state->reading == READING_MORE) {
		if (state->state == DATA) {
			uint64_t run = length - eaten < state->remaining ? length - eaten : state->remaining;
			chunks_skip(state, run);
			eaten += (uint32_t)run;
			continue;
		}
		int next = next_state(state, bytes[eaten]);
		if (next < 0) {
			state->reading = READING_BAD;
			break;
		}
		state->state = (uint32_t)next;
		eaten++;
	}
	return eaten;
}
