/* SPDX-License-Identifier: Apache-2.0
 *
 * Names of one container: two hash tables, one by text and one by address. Callers hold the container's lock.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "names.h"

#define PLACES_MAX (4 * NAMES_MAX) /* above it, addresses that names have left are forgotten at once */
#define BUCKETS 1024 /* a power of two; allocated by the container's first name */

/* An address and the name that last had it. */
struct place {
	struct place *next;
	struct name *name;
	int is_shared; /* others have had it */
	uint8_t address[16];
};

struct names {
	uint64_t seed; /* names come from the container: it must not choose our chains */
	uint32_t synthetic, real, places;
	struct name *by_text[BUCKETS];
	struct place *by_address[BUCKETS];
};

static uint32_t bucket(const struct names *names, const void *bytes, size_t length)
{
	uint64_t hash = names->seed;
	for (size_t i = 0; i < length; i++)
		hash = (hash ^ ((const uint8_t *)bytes)[i]) * 0x9e3779b97f4a7c15u, hash ^= hash >> 29;
	return (uint32_t)(hash >> 32) & (BUCKETS - 1);
}

struct names *names_new(void)
{
	struct names *names = calloc(1, sizeof *names);
	if (names && getrandom(&names->seed, sizeof names->seed, 0) != sizeof names->seed) {
		free(names);
		return NULL;
	}
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
		for (struct place *place = names->by_address[i], *next; place; place = next) {
			next = place->next;
			free(place);
		}
	}
	free(names);
}

struct name *names_by_text(struct names *names, const char *text)
{
	struct name *name = names->by_text[bucket(names, text, strlen(text))];
	while (name && strcmp(name->text, text) != 0)
		name = name->next;
	return name;
}

static struct place *find_place(struct names *names, const uint8_t address[16])
{
	struct place *place = names->by_address[bucket(names, address, 16)];
	while (place && memcmp(place->address, address, 16) != 0)
		place = place->next;
	return place;
}

struct name *names_by_address(struct names *names, const uint8_t address[16])
{
	struct place *place = find_place(names, address);
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
	struct place *place = find_place(names, address);
	if (!place || name_owns(place->name, address))
		return place ? place->name : NULL;
	struct name *asked = host ? names_by_text(names, host) : place->is_shared ? NULL : place->name;
	return asked && (asked == place->name || has_address(asked, address)) ? asked : NULL;
}

/* A synthetic address is its name's alone; a real one belongs to whoever was published last. */
static int claim(struct names *names, const uint8_t address[16], struct name *name)
{
	struct place *place = find_place(names, address);
	if (!place) {
		uint32_t at = bucket(names, address, 16);
		place = calloc(1, sizeof *place);
		if (!place)
			return -ENOMEM;
		memcpy(place->address, address, 16);
		place->next = names->by_address[at];
		names->by_address[at] = place;
		names->places++;
	} else if (place->name != name && name_owns(place->name, address)) {
		return 0;
	} else if (place->name != name) {
		place->is_shared = 1;
	}
	place->name = name;
	return 0;
}

/* Takes out the place of a real address that its name doesn't have any more. */
static void disclaim(struct names *names, const uint8_t address[16], const struct name *name)
{
	struct place **link = &names->by_address[bucket(names, address, 16)];
	while (*link && memcmp((*link)->address, address, 16) != 0)
		link = &(*link)->next;
	struct place *place = *link;
	if (!place || place->name != name || name_owns(name, address))
		return;
	*link = place->next;
	free(place);
	names->places--;
}

/* An address that a name has left leads to it for a while, as clients keep answers; but a server whose answers change for ever
 * must not fill our memory with them. */
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
	for (uint32_t i = 0; i < BUCKETS; i++) {
		struct place **at = &names->by_address[i];
		while (*at) {
			struct place *place = *at;
			if (place->name != gone) {
				at = &place->next;
				continue;
			}
			*at = place->next;
			free(place);
			names->places--;
		}
	}
	names->real -= !gone->is_synthetic;
	names->synthetic -= gone->is_synthetic;
	free(gone);
}

/* Makes room for one real name: the one that expires first goes. */
static void drop_oldest(struct names *names)
{
	struct name *oldest = NULL;
	for (uint32_t i = 0; i < BUCKETS; i++)
		for (struct name *name = names->by_text[i]; name; name = name->next)
			if (!name->is_synthetic && (!oldest || name->expires < oldest->expires))
				oldest = name;
	if (oldest)
		drop(names, oldest);
}

static struct name *add(struct names *names, const char *text)
{
	struct name *name = calloc(1, sizeof *name);
	if (!name)
		return NULL;
	uint32_t at = bucket(names, text, strlen(text));
	memcpy(name->text, text, strlen(text) + 1);
	name->next = names->by_text[at];
	names->by_text[at] = name;
	names->real++;
	return name;
}

/* Takes a pair of synthetic addresses from whichever names had them. */
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
		names->real--;
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
		drop_oldest(names);
	if (!name && !(name = add(names, text)))
		return -ENOMEM;
	if (count || !synthetic) {
		set_addresses(names, name, addresses, count);
		name->expires = expires;
		name->is_asked = name->has_failed = 0;
	}
	for (uint32_t i = 0; i < count && !name->is_synthetic && !synthetic; i++)
		if (claim(names, addresses + (size_t)i * 16, name))
			return -ENOMEM;
	return synthetic ? set_synthetic(names, name, synthetic) : 0;
}
