/* May a client that says this host reach this address?
 *
 * Pure. Called by connect.c and container.c, which hold the container's lock.
 */
#ifndef PYINTERCEPTOR_STANDING_H
#define PYINTERCEPTOR_STANDING_H

#include "names.h"
#include "policy.h"

/* Returns the standing of an address towards a client that says `host` (as the client wrote it; NULL: none): the
 * table's, but FREE if the container's DNS gave the address for that name. A server whose address a free name shares with
 * a ruled host, such as a CDN's, is reached under the free name. */
enum standing standing_of(const void *table, struct names *names, const char *host, const struct endpoint *to);

#endif
