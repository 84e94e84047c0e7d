/* SPDX-License-Identifier: Apache-2.0
 *
 * Accepts connections and finds out whose they are and where they go. Called by any thread of the relay; what it makes
 * belongs to that thread.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "abi.h"
#include "flow.h"

#define PKTOPTIONS 6 /* IPV6_2292PKTOPTIONS: gives the SYN's interface for v6 and v4-mapped peers alike */
#define ACCEPTS_MAX 64 /* in one turn */

static void endpoint_of(const struct sockaddr_in6 *address, struct endpoint *out)
{
	memcpy(out->address, &address->sin6_addr, 16);
	out->port = ntohs(address->sin6_port);
	out->reserved = 0;
}

/* The interface the SYN came in on, 0 where the kernel doesn't say. */
static uint32_t interface_of(int fd)
{
	_Alignas(struct cmsghdr) char options[256];
	socklen_t length = sizeof options;
	if (getsockopt(fd, IPPROTO_IPV6, PKTOPTIONS, options, &length) < 0)
		return 0;
	struct msghdr message = {.msg_control = options, .msg_controllen = length};
	for (struct cmsghdr *item = CMSG_FIRSTHDR(&message); item; item = CMSG_NXTHDR(&message, item)) {
		struct in6_pktinfo info;
		if (item->cmsg_level != IPPROTO_IPV6 || (item->cmsg_type != IPV6_PKTINFO && item->cmsg_type != IPV6_2292PKTINFO))
			continue;
		memcpy(&info, CMSG_DATA(item), sizeof info);
		return (uint32_t)info.ipi6_ifindex;
	}
	return 0;
}

static void reset(int fd)
{
	set_linger(fd, 1);
	close(fd);
}

/* Whose connection is it? NULL: nobody's whose address it has. Takes a reference. */
static struct container *identify(struct relay *relay, uint32_t capture, int fd, const struct endpoint *from)
{
	struct container *container = container_on(relay, capture, interface_of(fd));
	if (container && memcmp(from->address, container->attachment.v4, 16) != 0 &&
	    memcmp(from->address, container->attachment.v6, 16) != 0) {
		container_release(container);
		return NULL;
	}
	return container;
}

static int has_room(struct thread *thread, struct container *container)
{
	struct relay *relay = thread->relay;
	return atomic_load(&container->counters.flows) < container->budget.flows &&
	       atomic_load(&container->openings) < container->budget.openings &&
	       atomic_load(&relay->counters.flows) < relay->options.flows;
}

static struct flow *flow_new(struct thread *thread, struct container *container, int fd)
{
	struct flow *flow = calloc(1, sizeof *flow);
	if (!flow)
		return NULL;
	flow->container = container;
	flow->client = fd;
	flow->upstream = -1;
	flow->sent.pipe[0] = flow->sent.pipe[1] = flow->received.pipe[0] = flow->received.pipe[1] = -1;
	flow->number = atomic_fetch_add(&thread->relay->numbers, 1) + 1;
	flow->began = flow->last_byte = thread->now;
	flow->is_opening = 1;
	flow->sent.allowed = flow->received.allowed = ALLOW_ALL;
	atomic_fetch_add(&container->openings, 1);
	COUNT(flow, accepted, 1);
	COUNT(flow, flows, 1);
	flow_enlist(flow, &thread->flows);
	return flow;
}

/* The name the container's DNS gave for the destination. A synthetic one is held until the flow ends. */
static void set_name(struct flow *flow)
{
	pthread_mutex_lock(&flow->container->lock);
	struct name *name = names_by_address(flow->container->names, flow->to.address);
	if (name) {
		flow->name = strdup(name->text);
		flow->is_synthetic = flow->name && name_owns(name, flow->to.address);
		name->flows += flow->is_synthetic;
	}
	pthread_mutex_unlock(&flow->container->lock);
}

/* Where the client can be expected to speak first, nothing is dialled before it has. Elsewhere the server may speak first,
 * and is dialled at once, unless a rule names the host: then the client is given sniff_wait to say that it speaks HTTP. */
static int is_dialled_at_once(const struct flow *flow, const struct table *table)
{
	uint32_t length = flow->name ? (uint32_t)strlen(flow->name) : 0;
	return flow->decision.verdict == VERDICT_SPLICE && !policy_waits(table->blob, flow->to.port) &&
	       !policy_names_host(table->blob, flow->name, length, &flow->to);
}

static void begin(struct thread *thread, struct flow *flow)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.u64 = (uint64_t)(uintptr_t)flow};
	struct table *table = table_of(flow->container);
	if (!table) {
		flow_end(thread, flow, END_REFUSED);
		return;
	}
	set_name(flow);
	decide(flow, table, PROTOCOL_NONE, flow->name);
	int at_once = is_dialled_at_once(flow, table);
	table_release(table);
	if (epoll_ctl(thread->epoll, EPOLL_CTL_ADD, flow->client, &event) < 0) {
		flow_end(thread, flow, END_NO_RESOURCES);
	} else if (flow->to.port == DNS_PORT) {
		flow->protocol = PROTOCOL_NONE;
		flow->decision.verdict = VERDICT_HANDLE;
		flow->decision.rule = NO_RULE;
		hand_off(thread, flow);
	} else if (at_once) {
		begin_dial(thread, flow);
	}
}

static void admit(struct thread *thread, uint32_t capture, int fd, const struct sockaddr_in6 *peer)
{
	struct sockaddr_in6 own;
	socklen_t length = sizeof own;
	struct endpoint from;
	endpoint_of(peer, &from);
	struct container *container = identify(thread->relay, capture, fd, &from);
	if (!container || getsockname(fd, (struct sockaddr *)&own, &length) < 0) {
		reset(fd);
	} else if (!has_room(thread, container)) {
		atomic_fetch_add(&container->counters.over_budget, 1);
		atomic_fetch_add(&thread->relay->counters.over_budget, 1);
		reset(fd);
	} else {
		struct flow *flow = flow_new(thread, container, fd);
		if (flow) {
			flow->from = from;
			endpoint_of(&own, &flow->to);
			begin(thread, flow);
			return; /* the flow has the container's reference */
		}
		reset(fd);
	}
	if (container)
		container_release(container);
}

/* No descriptor is free: the spare one's place lets the connection be accepted and reset. Somebody else may take that place first;
 * then the next one that is free becomes the spare, and the listener is left alone for a while, or its readiness would have us
 * spin. Returns 0 where that is so. */
static int refuse_one(struct thread *thread, uint32_t capture)
{
	if (thread->spare >= 0)
		close(thread->spare);
	int fd = accept4(thread->relay->listeners[capture], NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	int is_done = fd >= 0 || errno == EAGAIN;
	if (fd >= 0) {
		atomic_fetch_add(&thread->relay->counters.no_resources, 1);
		reset(fd);
	}
	thread->spare = fcntl(thread->epoll, F_DUPFD_CLOEXEC, 0);
	return is_done;
}

void flow_accept(struct thread *thread, uint32_t capture)
{
	for (int i = 0; i < ACCEPTS_MAX; i++) {
		struct sockaddr_in6 peer;
		socklen_t length = sizeof peer;
		int fd = accept4(thread->relay->listeners[capture], (struct sockaddr *)&peer, &length, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0)
			admit(thread, capture, fd, &peer);
		else if (errno == EAGAIN)
			return;
		else if ((errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) && !refuse_one(thread, capture)) {
			thread_stop_listening(thread);
			return;
		}
	}
}
