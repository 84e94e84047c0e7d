/* SPDX-License-Identifier: Apache-2.0
 *
 * Searches the rows of a stage. Owns nothing; layout.h describes the indexes. Called by policy.c and guard.c only.
 */
#include <endian.h>
#include <string.h>

#include "rows.h"

#define ALL_PROTOCOLS ((1 << (PROTOCOL_OPAQUE + 1)) - 1)

static void add_address(struct question *question, const uint8_t *address, enum matched matched)
{
	uint8_t hidden[16];
	memcpy(question->addresses[question->address_count].bytes, address, 16);
	question->addresses[question->address_count++].matched = matched;
	if (address_hidden(address, hidden)) {
		memcpy(question->addresses[question->address_count].bytes, hidden, 16);
		question->addresses[question->address_count++].matched = matched;
	}
}

void question_ask(struct question *question, const char *host, uint32_t host_length, const struct endpoint *destination)
{
	uint8_t literal[16];
	uint32_t length = host_length ? host_canonical(host, host_length, question->host) : 0;
	question->port = destination ? destination->port : 0;
	question->protocols = 0;
	question->host_length = length;
	question->address_count = 0;
	for (uint32_t i = 0; i < length; i++)
		question->reversed[i] = question->host[length - 1 - i];
	if (length && host_address(question->host, length, literal))
		add_address(question, literal, MATCHED_LITERAL);
	if (destination)
		add_address(question, destination->address, MATCHED_DESTINATION);
}

static void consider(struct found *found, const struct question *question, const struct policy_row *row, enum matched matched)
{
	if (found->count < found->room)
		found->offsets[found->count] = (uint32_t)((const uint8_t *)row - found->base);
	found->count++;
	found->is_possible = 1;
	found->is_certain |= row->port == 0 && (row->protocols & ALL_PROTOCOLS) == ALL_PROTOCOLS;
	if ((row->port && row->port != question->port) || !(row->protocols & question->protocols) ||
	    (found->row && found->row->rank <= row->rank))
		return;
	found->row = row;
	found->matched = matched;
}

/* ---- names ---- */

static int compare(const char *one, uint32_t one_length, const char *other, uint32_t other_length)
{
	int order = memcmp(one, other, one_length < other_length ? one_length : other_length);
	return order ? order : one_length < other_length ? -1 : one_length > other_length;
}

static const char *text_of(const struct policy_rows *rows, const struct policy_name *name)
{
	return (const char *)rows + name->text;
}

static const struct policy_name *names_of(const struct policy_rows *rows, struct policy_array array)
{
	return (const void *)((const uint8_t *)rows + array.offset);
}

/* Returns the index of the last entry that doesn't sort after the key, or NO_PARENT if every entry does. */
static uint32_t last_name(const struct policy_rows *rows, struct policy_array array, const char *key, uint32_t length)
{
	const struct policy_name *names = names_of(rows, array);
	uint32_t low = 0, high = array.count;
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		if (compare(text_of(rows, &names[middle]), names[middle].length, key, length) <= 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low ? low - 1 : NO_PARENT;
}

static void find_name(struct found *found, const struct policy_rows *rows, const struct question *question)
{
	const struct policy_name *names = names_of(rows, rows->names);
	uint32_t at = last_name(rows, rows->names, question->host, question->host_length);
	if (at == NO_PARENT || names[at].length != question->host_length ||
	    memcmp(text_of(rows, &names[at]), question->host, question->host_length) != 0)
		return;
	for (; at != NO_PARENT; at = names[at].parent)
		consider(found, question, &names[at].row, MATCHED_NAME);
}

/* Finds globs with one star, at one end: a key matches if it begins with the glob's text. */
static void find_beginning(struct found *found, const struct policy_rows *rows, struct policy_array array, const char *key,
                           const struct question *question)
{
	const struct policy_name *names = names_of(rows, array);
	uint32_t length = question->host_length, at = last_name(rows, array, key, length);
	while (at != NO_PARENT && (names[at].length > length || memcmp(text_of(rows, &names[at]), key, names[at].length) != 0))
		at = names[at].parent;
	for (; at != NO_PARENT; at = names[at].parent)
		consider(found, question, &names[at].row, MATCHED_GLOB);
}

/* `*` matches any run of bytes. Only the last star is retried, so the time is at most length * pattern_length. */
static int glob_matches(const char *pattern, uint32_t pattern_length, const char *host, uint32_t length)
{
	uint32_t p = 0, h = 0, star = UINT32_MAX, resume = 0;
	while (h < length) {
		if (p < pattern_length && pattern[p] == '*') {
			star = p++;
			resume = h;
		} else if (p < pattern_length && pattern[p] == host[h]) {
			p++;
			h++;
		} else if (star != UINT32_MAX) {
			p = star + 1;
			h = ++resume;
		} else {
			return 0;
		}
	}
	while (p < pattern_length && pattern[p] == '*')
		p++;
	return p == pattern_length;
}

static void find_glob(struct found *found, const struct policy_rows *rows, const struct question *question)
{
	const struct policy_name *globs = names_of(rows, rows->globs);
	for (uint32_t i = 0; i < rows->globs.count && !(found->row && found->row->rank < globs[i].row.rank); i++)
		if (glob_matches(text_of(rows, &globs[i]), globs[i].length, question->host, question->host_length))
			consider(found, question, &globs[i].row, MATCHED_GLOB);
}

/* ---- addresses ---- */

/* An address as two integers, which compare faster than 16 bytes. */
struct wide {
	uint64_t high, low;
};

static struct wide widened(const uint8_t *address)
{
	struct wide wide;
	memcpy(&wide, address, 16);
	return (struct wide){be64toh(wide.high), be64toh(wide.low)};
}

static int is_after(struct wide one, struct wide other)
{
	return one.high > other.high || (one.high == other.high && one.low > other.low);
}

/* A v6 network contains no v4 address, although v4 addresses are stored in v4-mapped form: ::/0 must not match them. */
static int holds(const struct policy_network *network, const uint8_t *address)
{
	return network->prefix >= 96 || !address_is_v4(address);
}

static void find_address(struct found *found, const struct policy_rows *rows, const struct question *question,
                         const uint8_t *address, enum matched matched)
{
	const struct policy_network *networks = (const void *)((const uint8_t *)rows + rows->networks.offset);
	struct wide wanted = widened(address);
	uint32_t low = 0, high = rows->networks.count;
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		if (is_after(widened(networks[middle].address), wanted))
			high = middle;
		else
			low = middle + 1;
	}
	uint32_t at = low ? low - 1 : NO_PARENT;
	while (at != NO_PARENT && !address_in_network(address, networks[at].address, networks[at].prefix))
		at = networks[at].parent;
	for (; at != NO_PARENT; at = networks[at].parent)
		if (holds(&networks[at], address))
			consider(found, question, &networks[at].row, matched);
}

int rows_hold(const struct policy_rows *rows, const struct endpoint *to)
{
	struct found found = {0};
	struct question question;
	question.port = to->port;
	question.protocols = ALL_PROTOCOLS;
	find_address(&found, rows, &question, to->address, MATCHED_DESTINATION);
	return found.row != NULL;
}

/* General globs are searched late: they are tried one by one, and a match of lower rank found before ends the search
 * early. */
static void find(struct found *found, const struct policy_rows *rows, const struct question *question)
{
	if (question->host_length) {
		find_name(found, rows, question);
		find_beginning(found, rows, rows->suffixes, question->reversed, question);
		find_beginning(found, rows, rows->prefixes, question->host, question);
	}
	for (uint32_t i = 0; i < question->address_count && rows->networks.count; i++)
		find_address(found, rows, question, question->addresses[i].bytes, question->addresses[i].matched);
	if (question->host_length)
		find_glob(found, rows, question);
	const struct policy_row *all = (const void *)((const uint8_t *)rows + rows->all.offset);
	for (uint32_t i = 0; i < rows->all.count; i++)
		consider(found, question, &all[i], MATCHED_ALL);
}

struct found rows_find(const struct policy_rows *rows, const struct question *question)
{
	struct found found = {0};
	find(&found, rows, question);
	return found;
}

uint32_t rows_list(const struct policy_rows *rows, const struct question *question, const void *base, uint32_t *offsets,
                   uint32_t room)
{
	struct found found = {.offsets = offsets, .room = room, .base = base};
	find(&found, rows, question);
	return found.count;
}
