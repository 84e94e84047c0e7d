/* The names of one container: by text and by address, with their real and synthetic addresses.
 *
 * Owns its memory. Called by container.c, connect.c and flow.c, which hold the container's lock.
 */
#ifndef PYINTERCEPTOR_NAMES_H
#define PYINTERCEPTOR_NAMES_H

#include "hosts.h"

#define NAME_ADDRESSES_MAX 16
#define NAMES_MAX 65536 /* default limit for the synthetic names of a container, and again for its real names */

struct name_place;            /* an address and the name that it leads to: names.c */

struct name {
	struct name *next;        /* in its hash chain */
	struct name_place *places; /* the addresses that lead to this name */
	uint32_t rank;            /* real names: index in the heap by expiry */
	uint8_t synthetic[2][16]; /* zero if the name has none */
	uint8_t (*addresses)[16]; /* owned; NULL if there are none */
	uint32_t count;           /* of `addresses` */
	int is_synthetic;
	int is_asked;             /* 1: an EVENT_RESOLVE awaits its answer */
	int has_failed;           /* 1: the last resolution failed */
	uint32_t flows;           /* open flows to its synthetic addresses; while above 0, no other name gets these */
	double expires;           /* seconds, CLOCK_MONOTONIC */
	char text[];              /* NUL-terminated, at most HOST_MAX bytes */
};

struct names;

/* Returns NULL if memory is short. `seed` must be random: names come from the container, which could otherwise choose
 * them to collide in one hash chain. */
struct names *names_new(uint64_t seed);
void names_free(struct names *names);

/* Sets another limit than NAMES_MAX, which is the highest. Call it before the first name. */
void names_set_limit(struct names *names, uint32_t limit);

/* Sets a name's addresses. Removes another name that has the same synthetic addresses. In a full table, a new real name
 * replaces the real name that expires first. Returns 0; -EBUSY if flows are open to the other name's synthetic
 * addresses; -ENOSPC if the table has no room for a synthetic name; -ENOMEM; or -EINVAL. */
int names_publish(struct names *names, const char *text, const uint8_t *synthetic, const uint8_t *addresses, uint32_t count,
                  double expires);

/* Returns NULL if the name wasn't published. */
struct name *names_by_text(struct names *names, const char *text);

/* Returns 1 if the address is one of the name's synthetic addresses. */
int name_owns(const struct name *name, const uint8_t address[16]);

/* Returns the synthetic name of this address, else the real name last published with it, else NULL. */
struct name *names_by_address(struct names *names, const uint8_t address[16]);

/* Returns 1 if the name has the address, or was the last to have it: clients cache answers. A name or address that was
 * published no more for long may be forgotten. */
int names_gave(struct names *names, const char *text, const uint8_t address[16]);

/* Returns the name whose other addresses may be dialled instead of `address`: the name that owns it as a synthetic
 * address; else the name `host` (in canonical form), if it has the address or was the last to have it; else, if `host`
 * is NULL, the only name that has had it. Otherwise returns NULL: a DNS server that publishes another host's address
 * for its own name must not get that host's connections. */
struct name *names_dialled(struct names *names, const uint8_t address[16], const char *host);

#endif
