/* Is an address local, and does a policy open it? The pure half of the dial guard; dial.c joins it with the kernel's route.
 *
 * Local are: unspecified, loopback, link-local, private, CGNAT, multicast, broadcast, 0/8, 240/4, synthetic 198.18/15, ULA, Teredo,
 * local NAT64, and the forms that hide one of these (addresses.h). Documentation ranges are ordinary addresses.
 */
#ifndef PYINTERCEPTOR_GUARD_H
#define PYINTERCEPTOR_GUARD_H

#include "addresses.h"

/* 1 if the address, or one hidden in it, is local. */
int guard_is_local(const uint8_t *address);

/* 1 if the table's local_networks name this very address, with its port: a form that hides it is another's. */
int guard_names(const void *table, const struct endpoint *to);

#endif
