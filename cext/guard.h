/* The dial guard's pure half: whether an address is local, and whether a policy permits it. dial.c adds the check of
 * the route.
 *
 * Local addresses: unspecified, loopback, link-local, private, CGNAT, multicast, broadcast, 0/8, 240/4, synthetic
 * 198.18/15, ULA, Teredo, local NAT64, the metadata services of clouds, and every address that embeds one of these (addresses.h). Documentation ranges
 * are not local.
 */
#ifndef PYINTERCEPTOR_GUARD_H
#define PYINTERCEPTOR_GUARD_H

#include "addresses.h"

/* Returns 1 if the address, or the v4 address embedded in it, is local. */
int guard_is_local(const uint8_t *address);

/* Returns the address of a cloud's metadata service or host agent by its number, from 0 on; NULL after the last. Python
 * gives them to the kernel program. */
const uint8_t *guard_metadata(uint32_t index);

/* Returns 1 if the table's local_networks contain exactly this address and port. They don't permit another address
 * that embeds it. */
int guard_names(const void *table, const struct endpoint *to);

#endif
