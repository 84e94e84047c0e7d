/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * What the kernel program, the C extension and Python all must know, once.
 *
 * Read as it is by clang (through BCC), gcc and cffi: integer literals in #define, fixed-width fields,
 * explicit padding, no attributes. Network byte order exists only in fields typed __be16/__be32.
 */
#ifndef PYINTERCEPTOR_ABI_H
#define PYINTERCEPTOR_ABI_H

/* Slots of the `listeners` sockmap. */
#define LISTENER_TCP 0
#define LISTENER_DNS 1

/* Port whose UDP datagrams go to LISTENER_DNS. */
#define DNS_PORT 53

/* Why the program refused or assigned: index into the per-CPU array `counters`. */
#define COUNTER_ASSIGNED_TCP 0
#define COUNTER_ASSIGNED_DNS 1
#define COUNTER_UNKNOWN_INTERFACE 2
#define COUNTER_REFUSED_DESTINATION 3
#define COUNTER_REFUSED_PROTOCOL 4
#define COUNTER_REFUSED_FAMILY 5
#define COUNTER_NO_LISTENER 6
#define COUNTERS 7

/* Flags of a container's entry in the map `containers` (key: ifindex, u32). */
#define CONTAINER_IPV6 1 /* the host has a v6 route: v6 connections are assigned, else refused */

#define CONTAINERS_MAX 65536

/* Values in the tries `refused4` and `refused6`: addresses that are refused, to all or to all but DNS. */
#define REFUSE_ALL 1
#define REFUSE_ALL_BUT_DNS 2
#define REFUSED_MAX 64

struct container_entry {
	uint32_t flags;
	uint32_t container; /* its number, as the relay and Python know it */
};

#endif
