// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Decides which of our sockets gets a connection or datagram that arrives in the gateway namespace.
 *
 * Every destination is local there (AnyIP), so the kernel runs this program once for each new TCP connection and each
 * UDP datagram, but not for packets of established connections. Traffic that it doesn't assign is refused at once: TCP
 * with a reset, UDP with port unreachable. The kernel removes the sockets of a dead daemon from the sockmap, so all of
 * its traffic is refused.
 */
#include <uapi/linux/bpf.h>
#include "abi.h"

/* The kernel requires a licence that it knows; this is the GPL half of the SPDX line. */
#define BPF_LICENSE GPL

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17

struct v4_key {
	u32 prefix; /* bits */
	__be32 address;
};

struct v6_key {
	u32 prefix; /* bits */
	__be32 address[4];
};

/* The containers that may open connections, by ifindex. Written by the daemon before the interface exists. */
BPF_HASH(containers, u32, struct container_entry, CONTAINERS_MAX);
/* Our two sockets (LISTENER_*). Written by the daemon. The kernel removes a closed socket. */
BPF_TABLE("sockmap", u32, u64, listeners, 2);
/* Destinations that are refused to all containers (REFUSE_*). Written by the daemon before the first container. */
BPF_LPM_TRIE(refused4, struct v4_key, u32, REFUSED_MAX);
BPF_LPM_TRIE(refused6, struct v6_key, u32, REFUSED_MAX);
/* IPv6 networks that handlers serve, which work where the host has no IPv6 route. Written by the daemon. */
BPF_LPM_TRIE(served6, struct served6_key, u32, SERVED6_MAX);
/* The number of each outcome (COUNTER_*). Written by this program, read by the daemon. */
BPF_PERCPU_ARRAY(counters, u64, COUNTERS);

static inline void count(u32 outcome)
{
	u64 *counter = counters.lookup(&outcome);

	if (counter)
		*counter += 1;
}

static inline int refused(u32 *rule, int is_dns, u32 flags)
{
	if (!rule || (is_dns && *rule != REFUSE_ALL))
		return 0;
	return *rule != REFUSE_METADATA || !(flags & CONTAINER_METADATA);
}

static inline int assign(struct bpf_sk_lookup *ctx, u32 slot, u32 outcome)
{
	void *socket = listeners.lookup(&slot);

	if (!socket) {
		/* The daemon is dead or closing. */
		count(COUNTER_NO_LISTENER);
		return SK_DROP;
	}
	long error = bpf_sk_assign((void *)ctx, (struct bpf_sock *)socket, 0);

	bpf_sk_release((struct bpf_sock *)socket);
	if (error) {
		count(COUNTER_NO_LISTENER);
		return SK_DROP;
	}
	count(outcome);
	return SK_PASS;
}

static inline int is_served(u32 interface, const struct v6_key *to)
{
	struct served6_key key = { .prefix = SERVED6_PREFIX + 128, .interface = interface };

	__builtin_memcpy(key.address, to->address, sizeof key.address);
	return served6.lookup(&key) != 0;
}

int steer(struct bpf_sk_lookup *ctx)
{
	/* Load all words before the first branch. Otherwise clang merges the loads of the two families' branches into one
	 * through a modified context pointer, which the verifier refuses. Words of the other family read as zero. */
	struct v4_key to4 = { .prefix = 32, .address = ctx->local_ip4 };
	struct v6_key to6 = { .prefix = 128,
			      .address = { ctx->local_ip6[0], ctx->local_ip6[1], ctx->local_ip6[2], ctx->local_ip6[3] } };
	u32 interface = ctx->ingress_ifindex;
	u32 family = ctx->family;
	u32 protocol = ctx->protocol;
	int is_dns = ctx->local_port == DNS_PORT;

	struct container_entry *container = containers.lookup(&interface);

	if (!container) {
		/* A detached container, or an interface that isn't ours. */
		count(COUNTER_UNKNOWN_INTERFACE);
		return SK_DROP;
	}
	if (protocol != IPPROTO_TCP && !(protocol == IPPROTO_UDP && is_dns)) {
		/* UDP other than DNS, mainly QUIC: a client that is refused at once falls back to TCP. */
		count(COUNTER_REFUSED_PROTOCOL);
		return SK_DROP;
	}
	if (family == AF_INET6 && !is_dns && !(container->flags & CONTAINER_IPV6) && !is_served(interface, &to6)) {
		/* The host has no IPv6 route: the client should try IPv4 at once. DNS and handlers need no route. */
		count(COUNTER_REFUSED_FAMILY);
		return SK_DROP;
	}
	u32 *rule = family == AF_INET ? refused4.lookup(&to4) : refused6.lookup(&to6);

	if (refused(rule, is_dns, container->flags)) {
		/* The gateway itself, another container, a link-local (metadata) address, or no unicast address. */
		count(COUNTER_REFUSED_DESTINATION);
		return SK_DROP;
	}
	if (protocol == IPPROTO_TCP)
		return assign(ctx, LISTENER_TCP, COUNTER_ASSIGNED_TCP);
	return assign(ctx, LISTENER_DNS, COUNTER_ASSIGNED_DNS);
}
