/* SPDX-License-Identifier: Apache-2.0
 *
 * The names of one container: two hash tables, by text and by address. Owns them. Callers hold the container's lock.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "names.h"

#define FORMER_MAX 16384 /* above this count, an address that its name no longer has is removed at once */
#define BUCKETS_FIRST 256 /* a power of two; a table grows when it has more entries than buckets */

/* An address and the name that last had it. */
struct name_place {
	struct name_place *next;         /* in its hash chain */
	struct name *name;
	struct name_place *next_of_name; /* list of its name's places, including addresses that the name no longer has */
	struct name_place **link_of_name;
	uint8_t is_shared;               /* 1: several names have had it */
	uint8_t is_former;               /* 1: its name no longer has it */
	uint8_t address[16];
};

struct names {
	uint64_t seed;
	uint32_t limit;          /* of `synthetic`, and again of `real` */
	uint32_t synthetic, real, places;
	uint32_t former;         /* of `places` */
	struct name **by_expiry; /* heap of the real names, the first to expire on top; room for `limit` */
	uint32_t texts, addresses; /* buckets of each table */
	struct name **by_text;
	struct name_place **by_address;
};

static uint32_t hash_of(const struct names *names, const void *bytes, size_t length)
{
	uint64_t hash = names->seed;
	for (size_t i = 0; i < length; i++)
		hash = (hash ^ ((const uint8_t *)bytes)[i]) * 0x9e3779b97f4a7c15u, hash ^= hash >> 29;
	return (uint32_t)(hash >> 32);
}

static struct name **text_bucket(const struct names *names, const char *text)
{
	return &names->by_text[hash_of(names, text, strlen(text)) & (names->texts - 1)];
}

static struct name_place **address_bucket(const struct names *names, const uint8_t address[16])
{
	return &names->by_address[hash_of(names, address, 16) & (names->addresses - 1)];
}

/* The table of texts has as many buckets as names, and that of addresses as many as places. A table that can't grow
 * because memory is short stays as it is, and is slower. */
static void grow_texts(struct names *names)
{
	uint32_t before = names->texts;
	struct name **old = names->by_text, **wider = calloc(2 * (size_t)before, sizeof *wider);
	if (!wider)
		return;
	names->by_text = wider;
	names->texts = 2 * before;
	for (uint32_t i = 0; i < before; i++) {
		for (struct name *name = old[i], *next; name; name = next) {
			struct name **first = text_bucket(names, name->text);
			next = name->next;
			name->next = *first;
			*first = name;
		}
	}
	free(old);
}

static void grow_addresses(struct names *names)
{
	uint32_t before = names->addresses;
	struct name_place **old = names->by_address, **wider = calloc(2 * (size_t)before, sizeof *wider);
	if (!wider)
		return;
	names->by_address = wider;
	names->addresses = 2 * before;
	for (uint32_t i = 0; i < before; i++) {
		for (struct name_place *place = old[i], *next; place; place = next) {
			struct name_place **first = address_bucket(names, place->address);
			next = place->next;
			place->next = *first;
			*first = place;
		}
	}
	free(old);
}

struct names *names_new(uint64_t seed)
{
	struct names *names = calloc(1, sizeof *names);
	if (!names)
		return NULL;
	names->seed = seed;
	names->limit = NAMES_MAX;
	names->texts = names->addresses = BUCKETS_FIRST;
	names->by_text = calloc(BUCKETS_FIRST, sizeof *names->by_text);
	names->by_address = calloc(BUCKETS_FIRST, sizeof *names->by_address);
	if (!names->by_text || !names->by_address) {
		free(names->by_text);
		free(names->by_address);
		free(names);
		return NULL;
	}
	return names;
}

void names_set_limit(struct names *names, uint32_t limit)
{
	names->limit = limit < NAMES_MAX ? limit : NAMES_MAX;
}

static void free_name(struct name *name)
{
	free(name->addresses);
	free(name);
}

void names_free(struct names *names)
{
	if (!names)
		return;
	for (uint32_t i = 0; i < names->texts; i++) {
		for (struct name *name = names->by_text[i], *next; name; name = next) {
			next = name->next;
			free_name(name);
		}
	}
	for (uint32_t i = 0; i < names->addresses; i++) {
		for (struct name_place *place = names->by_address[i], *next; place; place = next) {
			next = place->next;
			free(place);
		}
	}
	free(names->by_expiry);
	free(names->by_text);
	free(names->by_address);
	free(names);
}

/* ---- the real names in the order they expire ---- */

static void set_rank(struct names *names, uint32_t at, struct name *name)
{
	names->by_expiry[at] = name;
	name->rank = at;
}

/* Restores the heap's order at a name, after its expiry or its rank was changed. */
static void rank(struct names *names, struct name *name)
{
	uint32_t at = name->rank;
	for (; at && names->by_expiry[(at - 1) / 2]->expires > name->expires; at = (at - 1) / 2)
		set_rank(names, at, names->by_expiry[(at - 1) / 2]);
	for (uint32_t child; (child = 2 * at + 1) < names->real; at = child) {
		if (child + 1 < names->real && names->by_expiry[child + 1]->expires < names->by_expiry[child]->expires)
			child++;
		if (names->by_expiry[child]->expires >= name->expires)
			break;
		set_rank(names, at, names->by_expiry[child]);
	}
	set_rank(names, at, name);
}

static int rank_first_time(struct names *names, struct name *name)
{
	if (!names->by_expiry && !(names->by_expiry = calloc(names->limit, sizeof *names->by_expiry)))
		return 0;
	name->rank = names->real++;
	rank(names, name);
	return 1;
}

static void unrank(struct names *names, const struct name *name)
{
	struct name *last = names->by_expiry[--names->real];
	if (last == name)
		return;
	last->rank = name->rank;
	rank(names, last);
}

/* ---- look-ups ---- */

struct name *names_by_text(struct names *names, const char *text)
{
	struct name *name = *text_bucket(names, text);
	while (name && strcmp(name->text, text) != 0)
		name = name->next;
	return name;
}

static struct name_place *find_place(struct names *names, const uint8_t address[16])
{
	struct name_place *place = *address_bucket(names, address);
	while (place && memcmp(place->address, address, 16) != 0)
		place = place->next;
	return place;
}

struct name *names_by_address(struct names *names, const uint8_t address[16])
{
	struct name_place *place = find_place(names, address);
	return place ? place->name : NULL;
}

int name_owns(const struct name *name, const uint8_t address[16])
{
	return name->is_synthetic && (memcmp(name->synthetic[0], address, 16) == 0 || memcmp(name->synthetic[1], address, 16) == 0);
}

static int has_address(const struct name *name, const uint8_t address[16])
{
	for (uint32_t i = 0; i < name->count; i++)
		if (memcmp(name->addresses[i], address, 16) == 0)
			return 1;
	return 0;
}

int names_gave(struct names *names, const char *text, const uint8_t address[16])
{
	const struct name *name = names_by_text(names, text);
	const struct name_place *place = find_place(names, address);
	return name && (has_address(name, address) || (place && place->name == name && !name_owns(name, address)));
}

struct name *names_dialled(struct names *names, const uint8_t address[16], const char *host)
{
	struct name_place *place = find_place(names, address);
	if (!place || name_owns(place->name, address))
		return place ? place->name : NULL;
	struct name *asked = host ? names_by_text(names, host) : place->is_shared ? NULL : place->name;
	return asked && (asked == place->name || has_address(asked, address)) ? asked : NULL;
}

/* ---- places ---- */

static void leave_name(struct name_place *place)
{
	*place->link_of_name = place->next_of_name;
	if (place->next_of_name)
		place->next_of_name->link_of_name = place->link_of_name;
}

static void join_name(struct name_place *place, struct name *name)
{
	place->name = name;
	place->next_of_name = name->places;
	place->link_of_name = &name->places;
	if (place->next_of_name)
		place->next_of_name->link_of_name = &place->next_of_name;
	name->places = place;
}

static void free_place(struct names *names, struct name_place *place)
{
	struct name_place **link = address_bucket(names, place->address);
	while (*link != place)
		link = &(*link)->next;
	*link = place->next;
	leave_name(place);
	names->places--;
	names->former -= place->is_former;
	free(place);
}

/* Makes an address lead to a name. A synthetic address stays with its owner; a real one moves to the name published
 * last. Returns 0 or -ENOMEM. */
static int claim(struct names *names, const uint8_t address[16], struct name *name)
{
	struct name_place *place = find_place(names, address);
	if (!place) {
		if (names->places >= names->addresses)
			grow_addresses(names);
		struct name_place **first = address_bucket(names, address);
		place = calloc(1, sizeof *place);
		if (!place)
			return -ENOMEM;
		memcpy(place->address, address, 16);
		place->next = *first;
		*first = place;
		names->places++;
		join_name(place, name);
	} else if (place->name != name && name_owns(place->name, address)) {
		return 0;
	} else if (place->name != name) {
		place->is_shared = 1;
		leave_name(place);
		join_name(place, name);
	}
	names->former -= place->is_former;
	place->is_former = 0;
	return 0;
}

/* Notes that a name no longer has a real address. Clients cache answers, so the address still leads to the name. Above
 * FORMER_MAX such addresses it is removed: a server whose answers change constantly must not use up our memory. */
static void disclaim(struct names *names, const uint8_t address[16], const struct name *name)
{
	struct name_place *place = find_place(names, address);
	if (!place || place->name != name || place->is_former || name_owns(name, address))
		return;
	if (names->former >= FORMER_MAX) {
		free_place(names, place);
	} else {
		place->is_former = 1;
		names->former++;
	}
}

/* Returns 0, or -ENOMEM: the name keeps its addresses. */
static int set_addresses(struct names *names, struct name *name, const uint8_t *addresses, uint32_t count)
{
	uint8_t (*before)[16] = name->addresses, (*after)[16] = NULL;
	uint32_t count_before = name->count;
	if (count && !(after = malloc(count * sizeof *after)))
		return -ENOMEM;
	if (count)
		memcpy(after, addresses, count * sizeof *after);
	name->addresses = after;
	name->count = count;
	for (uint32_t i = 0; i < count_before; i++)
		if (!has_address(name, before[i]))
			disclaim(names, before[i], name);
	free(before);
	return 0;
}

static void drop(struct names *names, struct name *gone)
{
	struct name **link = text_bucket(names, gone->text);
	while (*link != gone)
		link = &(*link)->next;
	*link = gone->next;
	while (gone->places)
		free_place(names, gone->places);
	if (gone->is_synthetic)
		names->synthetic--;
	else
		unrank(names, gone);
	free_name(gone);
}

static struct name *add(struct names *names, const char *text, int is_synthetic)
{
	size_t size = strlen(text) + 1;
	struct name *name = calloc(1, sizeof *name + size);
	if (!name || (!is_synthetic && !rank_first_time(names, name))) {
		free(name);
		return NULL;
	}
	name->is_synthetic = is_synthetic;
	names->synthetic += is_synthetic;
	memcpy(name->text, text, size);
	if (names->synthetic + names->real > names->texts)
		grow_texts(names);
	struct name **first = text_bucket(names, text);
	name->next = *first;
	*first = name;
	return name;
}

/* Removes the other names that have one of these two synthetic addresses. Returns 0, or -EBUSY if one has open
 * flows. */
static int free_pair(struct names *names, const struct name *name, const uint8_t *pair)
{
	for (int i = 0; i < 2; i++) {
		struct name *last = names_by_address(names, pair + i * 16);
		if (!last || last == name)
			continue;
		if (last->flows)
			return -EBUSY;
		drop(names, last);
	}
	return 0;
}

static int set_synthetic(struct names *names, struct name *name, const uint8_t *pair)
{
	if (!name->is_synthetic) {
		unrank(names, name);
		names->synthetic++;
		name->is_synthetic = 1;
	}
	memcpy(name->synthetic, pair, 32);
	int result = claim(names, pair, name);
	return result ? result : claim(names, pair + 16, name);
}

int names_publish(struct names *names, const char *text, const uint8_t *synthetic, const uint8_t *addresses, uint32_t count,
                  double expires)
{
	size_t length = strlen(text);
	if (length == 0 || length > HOST_MAX || count > NAME_ADDRESSES_MAX)
		return -EINVAL;
	struct name *name = names_by_text(names, text);
	int result = synthetic ? free_pair(names, name, synthetic) : 0;
	if (result)
		return result;
	if (synthetic && (!name || !name->is_synthetic) && names->synthetic >= names->limit)
		return -ENOSPC;
	if (!name && !synthetic && names->real >= names->limit)
		drop(names, names->by_expiry[0]);
	if (!name && !(name = add(names, text, synthetic != NULL)))
		return -ENOMEM;
	if (count || !synthetic) {
		if (set_addresses(names, name, addresses, count))
			return -ENOMEM;
		name->expires = expires;
		if (!name->is_synthetic)
			rank(names, name);
		name->is_asked = name->has_failed = 0;
	}
	for (uint32_t i = 0; i < count && !name->is_synthetic && !synthetic; i++)
		if (claim(names, addresses + (size_t)i * 16, name))
			return -ENOMEM;
	return synthetic ? set_synthetic(names, name, synthetic) : 0;
}
