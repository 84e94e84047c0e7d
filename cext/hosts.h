/* Hosts in the one form they are compared in.
 *
 * Pure. Called for every host that a rule, a request, a ClientHello or a name in DNS speaks of.
 */
#ifndef PYINTERCEPTOR_HOSTS_H
#define PYINTERCEPTOR_HOSTS_H

#include <stdint.h>

#define HOST_MAX 255          /* bytes, RFC 1035 section 2.3.4 */

/* The canonical form of a host into out[HOST_MAX + 1] (NUL-terminated): lower case, without a trailing dot, port or brackets; an
 * address as inet_ntop(3) writes it, v4-mapped as v4. Returns its length, 0 if it is empty, too long or not a host. */
uint32_t host_canonical(const char *host, uint32_t length, char *out);

/* The address that a canonical host is, into out[16] (v4 as v4-mapped). Returns 0 if the host is a name. */
int host_address(const char *host, uint32_t length, uint8_t *out);

#endif
