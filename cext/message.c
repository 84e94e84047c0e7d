/* SPDX-License-Identifier: Apache-2.0
 *
 * Reads and writes DNS messages. Owns nothing; message.h names the callers.
 */
#include <string.h>

#include "message.h"

#define FLAG_RESPONSE 0x8000
#define FLAG_OPCODE 0x7800
#define FLAG_CUT 0x0200
#define FLAG_DESIRED 0x0100
#define FLAG_AVAILABLE 0x0080
#define FLAG_UNCHECKED 0x0010
#define FLAG_CODE 0x000f

#define LABEL_MAX 63             /* bytes */
#define NAME_MAX 255             /* bytes on the wire */
#define CLASS_IN 1
#define OPT_SIZE 11              /* bytes of an OPT record without options */

enum { TYPE_A = 1, TYPE_SOA = 6, TYPE_AAAA = 28, TYPE_OPT = 41, TYPE_SVCB = 64, TYPE_HTTPS = 65, TYPE_META = 128, TYPE_ANY = 255 };
enum { CODE_FORMERR = 1, CODE_SERVFAIL = 2, CODE_NXDOMAIN = 3, CODE_NOTIMP = 4, CODE_REFUSED = 5, CODE_BADVERS = 16 };

static uint32_t u16(const uint8_t *at)
{
	return (uint32_t)at[0] << 8 | at[1];
}

static uint32_t u32(const uint8_t *at)
{
	return u16(at) << 16 | u16(at + 2);
}

static void put16(uint8_t *at, uint32_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static void put32(uint8_t *at, uint32_t value)
{
	put16(at, value >> 16);
	put16(at + 2, value & 0xffff);
}

static uint8_t lower(uint8_t byte)
{
	return byte >= 'A' && byte <= 'Z' ? byte | 0x20 : byte;
}

/* ---- a question ---- */

/* Returns the offset after an uncompressed name; 0 if it is malformed, or no type and class follow it. */
static uint32_t name_end(const uint8_t *wire, uint32_t length)
{
	uint32_t at = MESSAGE_HEADER;
	while (at + 4 < length && at - MESSAGE_HEADER < NAME_MAX) {
		if (wire[at] == 0)
			return at + 1;
		if (wire[at] > LABEL_MAX)
			return 0;
		at += 1u + wire[at];
	}
	return 0;
}

static int is_word(uint8_t byte)
{
	return (byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9') || byte == '_';
}

/* Writes one label in lower case. Returns 0 if no host has it. */
static int label_to_host(const uint8_t *label, uint32_t length, char *out, int *is_number)
{
	*is_number = 1;
	for (uint32_t i = 0; i < length; i++) {
		uint8_t byte = lower(label[i]);
		if (!is_word(byte) && !(byte == '-' && i > 0 && i + 1 < length))
			return 0;
		*is_number &= byte >= '0' && byte <= '9';
		out[i] = (char)byte;
	}
	return 1;
}

/* Writes the name at `wire` as text; "" if it is no host name. A name that ends in a number is an address. */
static void host_of(const uint8_t *name, char *out)
{
	uint32_t length = 0;
	int is_number = 1;
	for (const uint8_t *label = name; *label; label += 1 + *label) {
		if (length)
			out[length++] = '.';
		if (!label_to_host(label + 1, *label, out + length, &is_number)) {
			length = 0;
			break;
		}
		length += *label;
	}
	out[is_number ? 0 : length] = 0;
}

static int is_meta(uint32_t kind)
{
	return kind == 0 || kind == TYPE_OPT || (kind >= TYPE_META && kind < TYPE_ANY);
}

/* Reads the OPT record after a question. Returns its version; any other record has none. */
static uint32_t read_opt(const uint8_t *record, uint32_t length, struct question *out)
{
	if (length < OPT_SIZE || record[0] != 0 || u16(record + 1) != TYPE_OPT)
		return 0;
	uint32_t payload = u16(record + 3);
	out->payload = (uint16_t)(payload < 512 ? 512 : payload);
	return record[6];
}

static uint32_t question_code(const uint8_t *wire, uint32_t length, struct question *out)
{
	if (out->flags & FLAG_OPCODE)
		return CODE_NOTIMP;
	uint32_t end = name_end(wire, length);
	if (u16(wire + 4) != 1 || u16(wire + 6) || u16(wire + 8) || !end)
		return CODE_FORMERR;
	out->kind = (uint16_t)u16(wire + end);
	out->length = (uint16_t)(end + 4 - MESSAGE_HEADER);
	host_of(wire + MESSAGE_HEADER, out->host);
	uint32_t version = u16(wire + 10) ? read_opt(wire + end + 4, length - end - 4, out) : 0;
	if (version)
		return CODE_BADVERS;
	if (u16(wire + end + 2) != CLASS_IN)
		return CODE_REFUSED;
	return is_meta(out->kind) ? CODE_NOTIMP : 0;
}

int question_read(const uint8_t *wire, uint32_t length, struct question *out)
{
	if (length < MESSAGE_HEADER || u16(wire + 2) & FLAG_RESPONSE)
		return 0;
	out->id = (uint16_t)u16(wire);
	out->flags = (uint16_t)u16(wire + 2);
	out->kind = out->payload = out->length = 0;
	out->host[0] = 0;
	out->code = (uint16_t)question_code(wire, length, out);
	return 1;
}

/* ---- the records of an answer ---- */

struct record {
	uint32_t kind, ttl;
	uint32_t at;                 /* offset of the TTL */
	uint32_t data, end;          /* offsets of the data, and of the next record */
};

/* Reads the record at an offset. Returns 0 if it is malformed. */
static int record_at(const uint8_t *wire, uint32_t length, uint32_t at, struct record *out)
{
	for (uint32_t start = at;;) {
		if (at >= length || at - start > NAME_MAX)
			return 0;
		uint32_t size = wire[at];
		if (size > LABEL_MAX && size < 0xc0)
			return 0;
		at += size >= 0xc0 ? 2 : 1 + size;
		if (size == 0 || size >= 0xc0)
			break;
	}
	if (at + 10 > length)
		return 0;
	out->kind = u16(wire + at);
	out->at = at + 4;
	out->ttl = u32(wire + at + 4);
	out->data = at + 10;
	out->end = out->data + u16(wire + at + 8);
	return out->end <= length;
}

static void add_address(struct answer *out, const uint8_t *wire, const struct record *record)
{
	uint32_t size = record->end - record->data;
	if (out->count == ANSWER_ADDRESSES_MAX)
		return;
	uint8_t *to = out->addresses[out->count];
	if (record->kind == TYPE_A && size == 4) {
		memset(to, 0, 10);
		memset(to + 10, 0xff, 2);
		memcpy(to + 12, wire + record->data, 4);
		out->count++;
	} else if (record->kind == TYPE_AAAA && size == 16) {
		memcpy(to, wire + record->data, 16);
		out->count++;
	}
}

/* A TTL with its highest bit set counts as 0 (RFC 2181 section 8). */
static uint32_t capped(uint32_t ttl, uint32_t most)
{
	return ttl & 0x80000000u ? 0 : ttl < most ? ttl : most;
}

/* The time for which a denial may be kept, from the SOA record in its authority section; 0 for any other record. */
static uint32_t denial_ttl(const uint8_t *wire, const struct record *record)
{
	if (record->kind != TYPE_SOA || record->end - record->data < 22)
		return 0;
	uint32_t minimum = capped(u32(wire + record->end - 4), DENIAL_TTL_MAX), ttl = capped(record->ttl, DENIAL_TTL_MAX);
	return minimum < ttl ? minimum : ttl;
}

/* Reads all sections. Returns 0 if a record is malformed. */
static int read_records(const uint8_t *wire, uint32_t length, uint32_t at, uint32_t kind, struct answer *out)
{
	uint32_t answers = u16(wire + 6), authorities = u16(wire + 8), additional = u16(wire + 10), denial = 0;
	int is_found = 0; /* a record of the type that was asked */
	struct record record;
	out->lowest = ANSWER_TTL_MAX;
	for (uint32_t i = 0; i < answers + authorities + additional; i++, at = record.end) {
		if (!record_at(wire, length, at, &record))
			return 0;
		if (i < answers) {
			uint32_t ttl = capped(record.ttl, ANSWER_TTL_MAX);
			out->lowest = ttl < out->lowest ? ttl : out->lowest;
			is_found |= record.kind == kind || kind == TYPE_ANY;
			add_address(out, wire, &record);
		} else if (i < answers + authorities) {
			denial = denial ? denial : denial_ttl(wire, &record);
		} else if (record.kind == TYPE_OPT) {
			out->has_edns = 1;
			out->code |= (uint16_t)(wire[record.at] << 4);
		}
	}
	uint32_t kept = is_found ? out->lowest : denial < out->lowest ? denial : out->lowest;
	out->ttl = out->is_cut || (out->code != 0 && out->code != CODE_NXDOMAIN) ? 0 : kept;
	return 1;
}

static int is_same(const uint8_t *one, const uint8_t *other, uint32_t length)
{
	for (uint32_t i = 0; i < length; i++)
		if (lower(one[i]) != lower(other[i]))
			return 0;
	return 1;
}

static int may_be_bare(uint32_t code)
{
	return code == CODE_FORMERR || code == CODE_SERVFAIL || code == CODE_NOTIMP || code == CODE_REFUSED;
}

int answer_read(const uint8_t *wire, uint32_t length, uint16_t id, const uint8_t *question, uint32_t question_length,
                struct answer *out)
{
	*out = (struct answer){0};
	if (length < MESSAGE_HEADER || u16(wire) != id || (u16(wire + 2) & (FLAG_RESPONSE | FLAG_OPCODE)) != FLAG_RESPONSE)
		return 0;
	out->code = u16(wire + 2) & FLAG_CODE;
	out->is_cut = (u16(wire + 2) & FLAG_CUT) != 0;
	out->is_bare = u16(wire + 4) == 0;
	if (out->is_bare) {
		struct answer rest = {0};
		out->has_edns = read_records(wire, length, MESSAGE_HEADER, 0, &rest) && rest.has_edns;
		return may_be_bare(out->code);
	}
	if (u16(wire + 4) != 1 || length - MESSAGE_HEADER < question_length || question_length < 5)
		return 0;
	if (!is_same(wire + MESSAGE_HEADER, question, question_length - 4) ||
	    memcmp(wire + MESSAGE_HEADER + question_length - 4, question + question_length - 4, 4) != 0)
		return 0;
	uint32_t kind = u16(question + question_length - 4);
	return read_records(wire, length, MESSAGE_HEADER + question_length, kind, out);
}

/* ---- an answer for a container ---- */

static int has_v6_address(uint32_t kind)
{
	return kind == TYPE_AAAA || kind == TYPE_HTTPS || kind == TYPE_SVCB;
}

static void write_opt(uint8_t *out, uint32_t code)
{
	memset(out, 0, OPT_SIZE);
	put16(out + 1, TYPE_OPT);
	put16(out + 3, DATAGRAM_MAX);
	out[5] = (uint8_t)(code >> 4);
}

static void write_header(const struct question *asked, uint32_t flags, const uint32_t counts[3], uint8_t *out)
{
	uint32_t from_question = asked->flags & (FLAG_OPCODE | FLAG_DESIRED | FLAG_UNCHECKED);
	put16(out, asked->id);
	put16(out + 2, FLAG_RESPONSE | FLAG_AVAILABLE | from_question | flags);
	put16(out + 4, asked->length ? 1 : 0);
	for (int section = 0; section < 3; section++)
		put16(out + 6 + 2 * section, counts[section]);
}

uint32_t answer_limit(const struct question *asked)
{
	uint32_t payload = asked->payload > PLAIN_ANSWER_MAX ? asked->payload : PLAIN_ANSWER_MAX;
	return payload < UDP_ANSWER_MAX ? payload : UDP_ANSWER_MAX;
}

/* Copies the record with its age taken from its TTL. */
static void copy_record(const uint8_t *wire, uint32_t from, const struct record *record, uint32_t age, uint8_t *out)
{
	uint32_t ttl = capped(record->ttl, 0x7fffffff);
	memcpy(out + from, wire + from, record->end - from);
	put32(out + record->at, ttl > age ? ttl - age : 0);
}

uint32_t answer_write(const uint8_t *wire, uint32_t length, const struct question *asked, const uint8_t *question,
                      const struct passing_on *to, uint8_t *out)
{
	uint32_t flags = u16(wire + 2) & (FLAG_CUT | FLAG_CODE), opt = asked->payload ? OPT_SIZE : 0;
	uint32_t end = MESSAGE_HEADER + asked->length, sections[2] = {0, 0}, counts[3] = {0, 0, opt ? 1 : 0};
	struct record record;
	if (u16(wire + 4)) { /* a bare error has no records that count */
		sections[0] = u16(wire + 6);
		sections[1] = u16(wire + 8);
	}
	memcpy(out + MESSAGE_HEADER, question, asked->length);
	for (int section = 0; section < 2; section++) {
		for (uint32_t i = 0; i < sections[section] && record_at(wire, length, end, &record); i++, end = record.end) {
			if (!to->has_v6 && section == 0 && has_v6_address(record.kind))
				goto written;
			if (record.end + opt > to->limit) {
				flags |= FLAG_CUT;
				goto written;
			}
			copy_record(wire, end, &record, to->age, out);
			counts[section]++;
		}
	}
written:
	write_header(asked, flags, counts, out);
	if (opt)
		write_opt(out + end, 0);
	return end + opt;
}

uint32_t reply_write(const struct question *asked, const uint8_t *question, const struct reply *reply, uint8_t *out)
{
	const uint32_t counts[3] = {reply->record != NULL, 0, asked->payload > 0};
	uint32_t end = MESSAGE_HEADER + asked->length;
	write_header(asked, (reply->code & FLAG_CODE) | (reply->is_cut ? FLAG_CUT : 0), counts, out);
	memcpy(out + MESSAGE_HEADER, question, asked->length);
	if (reply->record) {
		put16(out + end, 0xc000 | MESSAGE_HEADER); /* a pointer to the question's name */
		put16(out + end + 2, asked->kind);
		put16(out + end + 4, CLASS_IN);
		put32(out + end + 6, reply->ttl);
		put16(out + end + 10, reply->length);
		memcpy(out + end + 12, reply->record, reply->length);
		end += 12 + reply->length;
	}
	if (!asked->payload)
		return end;
	write_opt(out + end, reply->code);
	return end + OPT_SIZE;
}
