/* SPDX-License-Identifier: Apache-2.0
 *
 * The names of one container: two hash tables, by text and by address. Owns them. Callers hold the container's lock.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "names.h"

#define PLACES_MAX (4 * NAMES_MAX) /* above this count, an address that its name no longer has is removed at once */
#define BUCKETS 1024 /* a power of two */

/* An address and the name that last had it. */
struct name_place {
	struct name_place *next;         /* in its hash chain */
	struct name *name;
	struct name_place *next_of_name; /* list of its name's places, including addresses that the name no longer has */
	struct name_place **link_of_name;
	int is_shared;                   /* 1: several names have had it */
	uint8_t address[16];
};

struct names {
	uint64_t seed;
	uint32_t synthetic, real, places;
	struct name **by_expiry; /* heap of the real names, the first to expire on top; room for NAMES_MAX */
	struct name *by_text[BUCKETS];
	struct name_place *by_address[BUCKETS];
};

static uint32_t bucket(const struct names *names, const void *bytes, size_t length)
{
	uint64_t hash = names->seed;
	for (size_t i = 0; i < length; i++)
		hash = (hash ^ ((const uint8_t *)bytes)[i]) * 0x9e3779b97f4a7c15u, hash ^= hash >> 29;
	return (uint32_t)(hash >> 32) & (BUCKETS - 1);
}

struct names *names_new(uint64_t seed)
{
	struct names *names = calloc(1, sizeof *names);
	if (names)
		names->seed = seed;
	return names;
}

void names_free(struct names *names)
{
	if (!names)
		return;
	for (uint32_t i = 0; i < BUCKETS; i++) {
		for (struct name *name = names->by_text[i], *next; name; name = next) {
			next = name->next;
			free(name);
		}
		for (struct name_place *place = names->by_address[i], *next; place; place = next) {
			next = place->next;
			free(place);
		}
	}
	free(names->by_expiry);
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
	if (!names->by_expiry && !(names->by_expiry = calloc(NAMES_MAX, sizeof *names->by_expiry)))
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
	struct name *name = names->by_text[bucket(names, text, strlen(text))];
	while (name && strcmp(name->text, text) != 0)
		name = name->next;
	return name;
}

static struct name_place *find_place(struct names *names, const uint8_t address[16])
{
	struct name_place *place = names->by_address[bucket(names, address, 16)];
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
	struct name_place **link = &names->by_address[bucket(names, place->address, 16)];
	while (*link != place)
		link = &(*link)->next;
	*link = place->next;
	leave_name(place);
	free(place);
	names->places--;
}

/* Makes an address lead to a name. A synthetic address stays with its owner; a real one moves to the name published
 * last. Returns 0 or -ENOMEM. */
static int claim(struct names *names, const uint8_t address[16], struct name *name)
{
	struct name_place *place = find_place(names, address);
	if (!place) {
		uint32_t at = bucket(names, address, 16);
		place = calloc(1, sizeof *place);
		if (!place)
			return -ENOMEM;
		memcpy(place->address, address, 16);
		place->next = names->by_address[at];
		names->by_address[at] = place;
		names->places++;
		join_name(place, name);
	} else if (place->name != name && name_owns(place->name, address)) {
		return 0;
	} else if (place->name != name) {
		place->is_shared = 1;
		leave_name(place);
		join_name(place, name);
	}
	return 0;
}

/* Removes the place of a real address that its name no longer has. */
static void disclaim(struct names *names, const uint8_t address[16], const struct name *name)
{
	struct name_place *place = find_place(names, address);
	if (place && place->name == name && !name_owns(name, address))
		free_place(names, place);
}

/* Clients cache answers, so an address that a name no longer has still leads to the name. Above PLACES_MAX such
 * addresses are removed: a server whose answers change constantly must not use up our memory. */
static void set_addresses(struct names *names, struct name *name, const uint8_t *addresses, uint32_t count)
{
	uint8_t before[NAME_ADDRESSES_MAX][16];
	uint32_t count_before = name->count;
	memcpy(before, name->addresses, sizeof before);
	name->count = count;
	if (count)
		memcpy(name->addresses, addresses, (size_t)count * 16);
	for (uint32_t i = 0; i < count_before && names->places > PLACES_MAX; i++)
		if (!has_address(name, before[i]))
			disclaim(names, before[i], name);
}

static void drop(struct names *names, struct name *gone)
{
	struct name **link = &names->by_text[bucket(names, gone->text, strlen(gone->text))];
	while (*link != gone)
		link = &(*link)->next;
	*link = gone->next;
	while (gone->places)
		free_place(names, gone->places);
	if (gone->is_synthetic)
		names->synthetic--;
	else
		unrank(names, gone);
	free(gone);
}

static struct name *add(struct names *names, const char *text, int is_synthetic)
{
	struct name *name = calloc(1, sizeof *name);
	if (!name || (!is_synthetic && !rank_first_time(names, name))) {
		free(name);
		return NULL;
	}
	name->is_synthetic = is_synthetic;
	names->synthetic += is_synthetic;
	uint32_t at = bucket(names, text, strlen(text));
	memcpy(name->text, text, strlen(text) + 1);
	name->next = names->by_text[at];
	names->by_text[at] = name;
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
	if (synthetic && (!name || !name->is_synthetic) && names->synthetic >= NAMES_MAX)
		return -ENOSPC;
	if (!name && !synthetic && names->real >= NAMES_MAX)
		drop(names, names->by_expiry[0]);
	if (!name && !(name = add(names, text, synthetic != NULL)))
		return -ENOMEM;
	if (count || !synthetic) {
		set_addresses(names, name, addresses, count);
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
