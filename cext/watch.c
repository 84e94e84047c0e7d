/* SPDX-License-Identifier: Apache-2.0
 *
 * Watches a client's lines for requests to a proxy. Owns nothing; watch.h names the callers.
 */
#include <string.h>

#include "slice.h"
#include "watch.h"

enum watch_place { BEFORE_METHOD = 0, IN_METHOD, BEFORE_TARGET, IN_SCHEME, AFTER_COLON, AFTER_SLASH, IN_AUTHORITY, IN_REST };

static const char connect_method[] = "connect";

static enum watch_place in_method(struct watch *watch, uint8_t byte)
{
	uint32_t at = watch->method, whole = sizeof connect_method - 1;
	if (is_any_blank(byte)) {
		watch->is_connect &= at == whole;
		return BEFORE_TARGET;
	}
	watch->is_connect &= at < whole && (byte | 0x20) == connect_method[at];
	watch->method += at < UINT8_MAX;
	return is_token_byte(byte) ? IN_METHOD : IN_REST;
}

static enum watch_place in_scheme(uint8_t byte)
{
	if (byte == ':')
		return AFTER_COLON;
	return is_token_byte(byte) ? IN_SCHEME : IN_REST;
}

static int ends_authority(uint8_t byte)
{
	return is_any_blank(byte) || byte == '/' || byte == '\\' || byte == '?' || byte == '#';
}

static enum watch_place in_authority(struct watch *watch, uint8_t byte)
{
	if (byte == '@')
		watch->length = 0;
	else if (watch->length < AUTHORITY_MAX)
		watch->authority[watch->length++] = (char)byte;
	return IN_AUTHORITY;
}

/* Returns the place after a byte that neither ends the line nor an authority. */
static enum watch_place after(struct watch *watch, uint8_t byte)
{
	switch ((enum watch_place)watch->place) {
	case BEFORE_METHOD:
		watch->method = 0;
		watch->is_connect = 1;
		return is_any_blank(byte) ? BEFORE_METHOD : in_method(watch, byte);
	case IN_METHOD:
		return in_method(watch, byte);
	case BEFORE_TARGET:
		watch->length = 0;
		if (is_any_blank(byte))
			return BEFORE_TARGET;
		return watch->is_connect ? in_authority(watch, byte) : in_scheme(byte);
	case IN_SCHEME:
		return in_scheme(byte);
	case AFTER_COLON:
		return byte == '/' ? AFTER_SLASH : IN_REST;
	case AFTER_SLASH:
		return byte == '/' ? IN_AUTHORITY : IN_REST;
	case IN_AUTHORITY:
		return in_authority(watch, byte);
	case IN_REST:
		break;
	}
	return IN_REST;
}

static int is_binary(uint8_t byte)
{
	return (byte < 0x20 && !is_any_blank(byte)) || byte == 0x7f;
}

/* The rest of a line is skipped at once. */
static uint32_t skip_rest(struct watch *watch, const uint8_t *bytes, uint32_t length)
{
	const uint8_t *end = memchr(bytes, '\n', length);
	uint32_t skipped = end ? (uint32_t)(end - bytes) : length;
	for (uint32_t i = 0; i < skipped && !watch->has_binary; i++)
		watch->has_binary = (uint8_t)is_binary(bytes[i]);
	return skipped;
}

uint32_t watch_eat(struct watch *watch, const uint8_t *bytes, uint32_t length)
{
	uint32_t at = 0;
	watch->is_asked = 0;
	while (at < length) {
		if (watch->place == IN_REST && (at += skip_rest(watch, bytes + at, length - at)) == length)
			break;
		if (watch->place == IN_AUTHORITY && ends_authority(bytes[at])) {
			watch->place = IN_REST;
			watch->authority[watch->length] = 0;
			watch->is_asked = 1;
			break;
		}
		watch->has_binary |= (uint8_t)is_binary(bytes[at]);
		watch->place = bytes[at] == '\n' ? BEFORE_METHOD : (uint8_t)after(watch, bytes[at]);
		at++;
	}
	return at;
}
