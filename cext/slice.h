/* A slice: bytes inside a head, and the lists and tokens of HTTP fields (RFC 9110 section 5.6).
 *
 * Pure. Included by the files that parse heads.
 */
#ifndef PYINTERCEPTOR_SLICE_H
#define PYINTERCEPTOR_SLICE_H

#include <stdint.h>
#include <string.h>
#include <strings.h>

/* RFC 9112 section 3 allows a lenient server to accept HT, VT, FF and a bare CR as a space. Python's http.server
 * accepts every Latin-1 space. */
static inline int is_any_blank(uint8_t byte)
{
	return byte == ' ' || (byte >= '\t' && byte <= '\r') || (byte >= 0x1c && byte <= 0x1f) || byte == 0x85 || byte == 0xa0;
}

struct slice {
	const uint8_t *at;
	uint32_t length;
};

static inline int is_token_byte(uint8_t byte)
{
	if ((byte >= '0' && byte <= '9') || (byte >= 'A' && byte <= 'Z') || (byte >= 'a' && byte <= 'z'))
		return 1;
	return byte && strchr("!#$%&'*+-.^_`|~", byte) != NULL;
}

static inline int is_token(struct slice text)
{
	for (uint32_t i = 0; i < text.length; i++)
		if (!is_token_byte(text.at[i]))
			return 0;
	return text.length > 0;
}

static inline int equals(struct slice text, const char *other)
{
	return text.length == strlen(other) && strncasecmp((const char *)text.at, other, text.length) == 0;
}

static inline int is_blank(uint8_t byte)
{
	return byte == ' ' || byte == '\t';
}

static inline struct slice trimmed(struct slice text)
{
	while (text.length && is_blank(*text.at))
		text.at++, text.length--;
	while (text.length && is_blank(text.at[text.length - 1]))
		text.length--;
	return text;
}

/* Removes the next member of a comma-separated list from `rest`. Returns 0 at the end of the list. */
static inline int next_member(struct slice *rest, struct slice *member)
{
	if (rest->length == 0)
		return 0;
	const uint8_t *comma = memchr(rest->at, ',', rest->length);
	uint32_t length = comma ? (uint32_t)(comma - rest->at) : rest->length;
	*member = trimmed((struct slice){rest->at, length});
	rest->at += length + (comma != NULL);
	rest->length -= length + (comma != NULL);
	return 1;
}

#endif
