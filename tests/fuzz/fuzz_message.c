/* Fuzzes message.c with arbitrary bytes as a question, and as an answer to www.example.test: it stays within them, and
 * writes no more than the limit. */
#include <stdlib.h>
#include <string.h>

#include "message.h"

static const uint8_t question[] = "\3www\7example\4test\0\0\1\0\1";

static void check_answer(const uint8_t *wire, uint32_t length)
{
	static uint8_t out[MESSAGE_MAX];
	struct answer answer;
	uint16_t id = length >= 2 ? (uint16_t)(wire[0] << 8 | wire[1]) : 0;
	if (!answer_read(wire, length, id, question, sizeof question - 1, &answer))
		return;
	if (answer.count > ANSWER_ADDRESSES_MAX || answer.ttl > ANSWER_TTL_MAX)
		abort();
	for (uint16_t v6 = 0; v6 < 2; v6++) {
		struct question asked = {.length = sizeof question - 1, .payload = v6 ? 600 : 0};
		struct passing_on to = {.has_v6 = v6, .limit = 512, .age = 3};
		if (answer_write(wire, length, &asked, question, &to, out) > 512)
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	uint32_t length = size > MESSAGE_MAX ? MESSAGE_MAX : (uint32_t)size;
	uint8_t *wire = malloc(MESSAGE_HEADER + sizeof question + length); /* of exactly its size, for AddressSanitizer */
	struct question read;
	memcpy(wire, bytes, length);
	uint8_t *exact = realloc(wire, length ? length : 1);
	if (question_read(exact, length, &read)) {
		static uint8_t out[REPLY_MAX];
		struct reply reply = {.code = read.code, .record = exact, .length = length > 255 ? 255 : length};
		if (strlen(read.host) > HOST_MAX || MESSAGE_HEADER + read.length > length)
			abort();
		if (reply_write(&read, exact + MESSAGE_HEADER, &reply, out) > REPLY_MAX)
			abort();
	}
	check_answer(exact, length);
	if (length >= MESSAGE_HEADER) { /* the same records behind the question that was asked */
		uint32_t whole = length + sizeof question - 1;
		uint8_t *asked = malloc(whole);
		memcpy(asked, exact, MESSAGE_HEADER);
		asked[2] |= 0x80;
		asked[2] &= 0x87;
		asked[4] = 0;
		asked[5] = 1;
		memcpy(asked + MESSAGE_HEADER, question, sizeof question - 1);
		memcpy(asked + MESSAGE_HEADER + sizeof question - 1, exact + MESSAGE_HEADER, length - MESSAGE_HEADER);
		check_answer(asked, whole);
		free(asked);
	}
	free(exact);
	return 0;
}
