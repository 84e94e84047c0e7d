/* SPDX-License-Identifier: Apache-2.0
 *
 * Accepts connections. Owns a connection until flow_begin() takes it; called by thread.c.
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

#include "accept.h"
#include "state.h"

#define PKTOPTIONS 6 /* IPV6_2292PKTOPTIONS: returns the SYN's interface, for v6 and v4-mapped peers */
#define ACCEPTS_MAX 64 /* connections in one turn */

static void endpoint_of(const struct sockaddr_in6 *address, struct endpoint *out)
{
	memcpy(out->address, &address->sin6_addr, 16);
	out->port = ntohs(address->sin6_port);
	out->reserved = 0;
}

/* Returns the interface on which the SYN arrived, 0 if the kernel doesn't report it, or -1 with errno. */
static int64_t interface_of(int fd)
{
	_Alignas(struct cmsghdr) char options[256];
	socklen_t length = sizeof options;
	if (getsockopt(fd, IPPROTO_IPV6, PKTOPTIONS, options, &length) < 0)
		return -1;
	struct msghdr message = {.msg_control = options, .msg_controllen = length};
	for (struct cmsghdr *item = CMSG_FIRSTHDR(&message); item; item = CMSG_NXTHDR(&message, item)) {
		struct in6_pktinfo info;
		if (item->cmsg_level != IPPROTO_IPV6 || (item->cmsg_type != IPV6_PKTINFO && item->cmsg_type != IPV6_2292PKTINFO))
			continue;
		memcpy(&info, CMSG_DATA(item), sizeof info);
		return info.ipi6_ifindex;
	}
	return 0;
}

static void reset(int fd)
{
	set_linger(fd, 1);
	close(fd);
}

static int has_address(const struct container *container, const struct endpoint *from)
{
	return memcmp(from->address, container->attachment.v4, 16) == 0 || memcmp(from->address, container->attachment.v6, 16) == 0;
}

/* Takes the places of a flow. Returns 0 if there is no room. */
static int take_places(struct container *container)
{
	return atomic_load(&container->openings) < container->budget.openings && container_take_flow(container);
}

/* Begins a flow, which takes the socket and the container's reference. Returns END_DONE, or the cause of a refusal:
 * then the caller keeps both. `to` is set to the destination, or left as it is if that is unknown. */
static enum end_cause begin(struct thread *thread, struct container *container, int fd, const struct endpoint *from,
                            struct endpoint *to)
{
	struct sockaddr_in6 own;
	socklen_t length = sizeof own;
	if (getsockname(fd, (struct sockaddr *)&own, &length) < 0)
		return END_NO_RESOURCES;
	endpoint_of(&own, to);
	if (!has_address(container, from))
		return END_REFUSED;
	if (!take_places(container))
		return END_BUDGET;
	if (flow_begin(&thread->flows, container, fd, from, to))
		return END_DONE;
	container_give_flow(container, FLOW_DESCRIPTORS);
	return END_NO_RESOURCES;
}

static void admit(struct thread *thread, uint32_t capture, int fd, const struct sockaddr_in6 *peer)
{
	struct endpoint from;
	endpoint_of(peer, &from);
	int64_t interface = interface_of(fd);
	struct container *container = interface > 0 ? container_on(thread->relay, capture, (uint32_t)interface) : NULL;
	if (!container) {
		if (interface < 0)
			atomic_fetch_add(&thread->relay->counters.no_resources, 1);
		reset(fd);
		return;
	}
	struct endpoint to = {0};
	enum end_cause cause = begin(thread, container, fd, &from, &to);
	if (cause == END_DONE)
		return;
	connection_refused(&thread->flows, container, &from, &to, cause);
	container_release(container);
	reset(fd);
}

/* Resets one connection although no descriptor is free: closes the spare descriptor, to accept the connection in its
 * place. Another thread may take that place first: then returns 0, and the caller must stop listening for a while, or
 * the listener's readiness would make the thread spin. Any free descriptor becomes the new spare. */
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

int accept_flows(struct thread *thread, uint32_t capture)
{
	for (int i = 0; i < ACCEPTS_MAX; i++) {
		struct sockaddr_in6 peer;
		socklen_t length = sizeof peer;
		int fd = accept4(thread->relay->listeners[capture], (struct sockaddr *)&peer, &length, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0)
			admit(thread, capture, fd, &peer);
		else if (errno == EAGAIN)
			break;
		else if ((errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) && !refuse_one(thread, capture))
			return 0;
	}
	return 1;
}
