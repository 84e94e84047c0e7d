/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * The constants and structures that the kernel program, the C extension and Python share.
 *
 * clang (through BCC), gcc and cffi read this file unchanged: integer literals in #define, fixed-width fields, explicit
 * padding, no attributes. Only fields of type __be16 or __be32 are in network byte order.
 */
#ifndef PYINTERCEPTOR_ABI_H
#define PYINTERCEPTOR_ABI_H

/* Slots of the `listeners` sockmap. */
#define LISTENER_TCP 0
#define LISTENER_DNS 1

/* The port whose UDP datagrams go to LISTENER_DNS. */
#define DNS_PORT 53

/* Outcomes of the program: indexes of the per-CPU array `counters`. */
#define COUNTER_ASSIGNED_TCP 0
#define COUNTER_ASSIGNED_DNS 1
#define COUNTER_UNKNOWN_INTERFACE 2
#define COUNTER_REFUSED_DESTINATION 3
#define COUNTER_REFUSED_PROTOCOL 4
#define COUNTER_REFUSED_FAMILY 5
#define COUNTER_NO_LISTENER 6
#define COUNTERS 7

/* Bits of `flags` in a container's entry of the map `containers` (key: ifindex, u32). */
#define CONTAINER_IPV6 1 /* the host has an IPv6 route; without it only networks in the trie `served6` are reached */
#define CONTAINER_METADATA 2 /* a rule of the container names a metadata address: the relay decides */

#define CONTAINERS_MAX 65536

/* Values in the tries `refused4` and `refused6`: an address is refused for all traffic, or for all traffic except DNS, or
 * so unless the container has CONTAINER_METADATA. */
#define REFUSE_ALL 1
#define REFUSE_ALL_BUT_DNS 2
#define REFUSE_METADATA 3
#define REFUSED_MAX 64

#define SERVED6_MAX 65536

/* Key of the trie `served6`: an IPv6 network that a rule of the container on this interface gives to a handler. */
#define SERVED6_PREFIX 32 /* bits of `interface` */
struct served6_key {
	uint32_t prefix; /* bits of `interface` and of the network */
	uint32_t interface;
	uint8_t address[16];
};

struct container_entry {
	uint32_t flags;
	uint32_t container; /* the number by which the relay and Python identify it */
};

#endif
