/* Which name an address stands for in one container, and the name's real addresses.
 *
 * Owns its memory; the caller locks.
 */
#ifndef PYINTERCEPTOR_NAMES_H
#define PYINTERCEPTOR_NAMES_H

#include "hosts.h"

#define NAME_ADDRESSES_MAX 16
#define NAMES_MAX 4096 /* synthetic ones of a container, and as many real ones */

struct name_place;               /* an address and whose it is: names.c */

struct name {
	struct name *next;        /* in its chain */
	struct name_place *places;     /* that lead to it */
	uint32_t rank;            /* a real one's, in the order of expiry */
	char text[HOST_MAX + 1];
	uint8_t synthetic[2][16]; /* zero where there is none */
	uint8_t addresses[NAME_ADDRESSES_MAX][16];
	uint32_t count;
	int is_synthetic;
	int is_asked;             /* an EVENT_RESOLVE is out */
	int has_failed;           /* the last resolving found nothing */
	uint32_t flows;           /* open to its synthetic addresses, which stay its own as long */
	double expires;           /* seconds, CLOCK_MONOTONIC */
};

struct names;

/* NULL without memory. `seed` is random: names come from the container, which must not choose the hash chains. */
struct names *names_new(uint64_t seed);
void names_free(struct names *names);

/* Sets a name's addresses. A name that had the synthetic ones before is forgotten; in a full table, a real name
 * takes the place of the one that expires first. Returns 0, -EBUSY if flows are open to the synthetic addresses of
 * another name, -ENOSPC if there is no place for a synthetic name, -ENOMEM, or -EINVAL. */
int names_publish(struct names *names, const char *text, const uint8_t *synthetic, const uint8_t *addresses, uint32_t count,
                  double expires);

/* NULL if it wasn't published. */
struct name *names_by_text(struct names *names, const char *text);

/* 1 if the address is one of the name's synthetic ones. */
int name_owns(const struct name *name, const uint8_t address[16]);

/* The synthetic name of this address, else the real name that was last published with it, else NULL. */
struct name *names_by_address(struct names *names, const uint8_t address[16]);

/* The name whose other addresses may be dialled instead of this one: the name that has it as a synthetic address;
 * else the host that the flow asks for (as host_canonical() gives it), if it has or had the address; for a flow that
 * asks for none (NULL), the only name that has it. Else NULL: a DNS server that publishes another's address as its
 * own doesn't get that one's connections. */
struct name *names_dialled(struct names *names, const uint8_t address[16], const char *host);

#endif
