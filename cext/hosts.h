/* The canonical form of a host, in which hosts are compared.
 *
 * Pure. Called for every host in a rule, a request, a ClientHello or a DNS name.
 */
#ifndef PYINTERCEPTOR_HOSTS_H
#define PYINTERCEPTOR_HOSTS_H

#include <stdint.h>

#define HOST_MAX 255          /* bytes, RFC 1035 section 2.3.4 */

/* Writes the canonical form of a host to out[HOST_MAX + 1], NUL-terminated: lower case, without a trailing dot, port or
 * brackets; an address as inet_ntop(3) writes it, a v4-mapped one as v4. Returns its length, or 0 if it is empty, too
 * long or not a host. */
uint32_t host_canonical(const char *host, uint32_t length, char *out);

/* Writes the address that a canonical host denotes to out[16] (v4 as v4-mapped). Returns 1, or 0 if the host is a
 * name. */
int host_address(const char *host, uint32_t length, uint8_t *out);

#endif
