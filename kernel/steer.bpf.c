// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Which of our sockets gets what arrives in the gateway namespace?
 *
 * Everything that arrives is local there (AnyIP), so each new TCP connection and each UDP datagram asks this
 * program once; packets of established connections don't. What it doesn't assign is refused at once: a reset for
 * TCP, port unreachable for UDP. A dead daemon's sockets leave the sockmap by themselves, and that refuses, too.
 */
#include <uapi/linux/bpf.h>
#include "abi.h"

/* The kernel asks for a licence it knows; this is the GPL half of the SPDX line. */
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

/* Who may open connections. Written by the daemon before the interface exists; key: its ifindex. */
BPF_HASH(containers, u32, struct container_entry, CONTAINERS_MAX);
/* Our two sockets (LISTENER_*). Written by the daemon; the kernel removes a socket that is closed. */
BPF_TABLE("sockmap", u32, u64, listeners, 2);
/* What nobody may dial (REFUSE_*). Written by the daemon before the first container. */
BPF_LPM_TRIE(refused4, struct v4_key, u32, REFUSED_MAX);
BPF_LPM_TRIE(refused6, struct v6_key, u32, REFUSED_MAX);
/* Outcomes (COUNTER_*). Written here, read by the daemon. */
BPF_PERCPU_ARRAY(counters, u64, COUNTERS);

static inline void count(u32 outcome)
{
	u64 *counter = counters.lookup(&outcome);

	if (counter)
		*counter += 1;
}

static inline int refused(u32 *rule, int is_dns)
{
	return rule && !(is_dns && *rule == REFUSE_ALL_BUT_DNS);
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

int steer(struct bpf_sk_lookup *ctx)
{
	/* All words before the first branch: clang merges loads of the two families' branches into one through a
	 * modified context pointer otherwise, which the verifier refuses. The other family's words read as zero. */
	struct v4_key to4 = { .prefix = 32, .address = ctx->local_ip4 };
	struct v6_key to6 = { .prefix = 128,
			      .address = { ctx->local_ip6[0], ctx->local_ip6[1], ctx->local_ip6[2], ctx->local_ip6[3] } };
	u32 interface = ctx->ingress_ifindex;
	u32 family = ctx->family;
	u32 protocol = ctx->protocol;
	int is_dns = ctx->local_port == DNS_PORT;

	struct container_entry *container = containers.lookup(&interface);

	if (!container) {
		/* Detached, or not one of ours. */
		count(COUNTER_UNKNOWN_INTERFACE);
		return SK_DROP;
	}
	if (protocol != IPPROTO_TCP && !(protocol == IPPROTO_UDP && is_dns)) {
		/* UDP that is not DNS, QUIC above all: clients fall back to TCP when they are refused at once. */
		count(COUNTER_REFUSED_PROTOCOL);
		return SK_DROP;
	}
	if (family == AF_INET6 && !is_dns && !(container->flags & CONTAINER_IPV6)) {
		/* The host can't reach it: the client should try IPv4 now. DNS we answer ourselves. */
		count(COUNTER_REFUSED_FAMILY);
		return SK_DROP;
	}
	u32 *rule = family == AF_INET ? refused4.lookup(&to4) : refused6.lookup(&to6);

	if (refused(rule, is_dns)) {
		/* The gateway itself, another container, link-local (the metadata address), not unicast. */
		count(COUNTER_REFUSED_DESTINATION);
		return SK_DROP;
	}
	if (protocol == IPPROTO_TCP)
		return assign(ctx, LISTENER_TCP, COUNTER_ASSIGNED_TCP);
	return assign(ctx, LISTENER_DNS, COUNTER_ASSIGNED_DNS);
}
