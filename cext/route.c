/* SPDX-License-Identifier: Apache-2.0
 *
 * Queries routes over rtnetlink. Owns nothing; route.h names the callers.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "route.h"

#define ANSWER_MAX 4096
#define STALE_MAX 64 /* answers to earlier questions that are skipped before giving up */

/* The socket is connected to the kernel: another process that sends to it gets ECONNREFUSED (netlink(7)). */
int route_open(void)
{
	struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&kernel, sizeof kernel) < 0) {
		int error = errno;
		close(fd);
		errno = error;
		return -1;
	}
	return fd;
}

static int ask(int netlink, const struct endpoint *to, uint32_t sequence)
{
	struct {
		struct nlmsghdr header;
		struct rtmsg route;
		struct rtattr attribute;
		uint8_t address[16];
	} question = {0};
	int is_v4 = address_is_v4(to->address);
	uint32_t length = is_v4 ? 4 : 16;
	question.header.nlmsg_len = (uint32_t)(NLMSG_LENGTH(sizeof question.route) + RTA_LENGTH(length));
	question.header.nlmsg_type = RTM_GETROUTE;
	question.header.nlmsg_flags = NLM_F_REQUEST;
	question.header.nlmsg_seq = sequence;
	question.route.rtm_family = is_v4 ? AF_INET : AF_INET6;
	question.route.rtm_dst_len = (uint8_t)(length * 8);
	question.attribute.rta_type = RTA_DST;
	question.attribute.rta_len = (uint16_t)RTA_LENGTH(length);
	memcpy(question.address, to->address + 16 - length, length);
	return send(netlink, &question, question.header.nlmsg_len, MSG_NOSIGNAL) == (ssize_t)question.header.nlmsg_len;
}

static enum route read_error(const struct nlmsghdr *header)
{
	const struct nlmsgerr *error = NLMSG_DATA(header);
	if (header->nlmsg_len < NLMSG_LENGTH(sizeof *error))
		return ROUTE_UNKNOWN;
	return error->error == -ENETUNREACH || error->error == -EHOSTUNREACH ? ROUTE_NONE : ROUTE_UNKNOWN;
}

static enum route read_answer(const struct nlmsghdr *header, uint8_t family)
{
	const struct rtmsg *route = NLMSG_DATA(header);
	if (header->nlmsg_type == NLMSG_ERROR)
		return read_error(header);
	if (header->nlmsg_type != RTM_NEWROUTE || header->nlmsg_len < NLMSG_LENGTH(sizeof *route) || route->rtm_family != family)
		return ROUTE_UNKNOWN;
	return route->rtm_type == RTN_UNICAST ? ROUTE_UNICAST : ROUTE_OTHER;
}

/* Answers to earlier questions that timed out may be queued before ours: they are skipped by their sequence number. */
enum route route_to(int netlink, const struct endpoint *to)
{
	static _Atomic uint32_t questions;
	uint32_t sequence = atomic_fetch_add(&questions, 1) + 1;
	_Alignas(struct nlmsghdr) uint8_t answer[ANSWER_MAX];
	const struct nlmsghdr *header = (const void *)answer;
	struct pollfd ready = {.fd = netlink, .events = POLLIN};
	if (!ask(netlink, to, sequence))
		return ROUTE_UNKNOWN;
	for (int skipped = 0; skipped <= STALE_MAX; skipped++) {
		if (poll(&ready, 1, ROUTE_PATIENCE) <= 0)
			return ROUTE_UNKNOWN;
		ssize_t got = recv(netlink, answer, sizeof answer, MSG_DONTWAIT);
		if (got < (ssize_t)sizeof *header || header->nlmsg_len > (size_t)got)
			return ROUTE_UNKNOWN;
		if (header->nlmsg_seq == sequence)
			return read_answer(header, address_is_v4(to->address) ? AF_INET : AF_INET6);
	}
	return ROUTE_UNKNOWN;
}

int relay_has_route(int family)
{
	static const char *const samples[] = {"2001:db8::1", "2606:4700::1111", "203.0.113.1", "8.8.8.8"};
	int netlink = route_open(), found = 0;
	for (int i = 0; netlink >= 0 && i < 4 && !found; i++) {
		struct endpoint to = {.address = {[10] = 0xff, 0xff}};
		if (inet_pton(family, samples[i], to.address + (family == AF_INET ? 12 : 0)) == 1)
			found = route_to(netlink, &to) == ROUTE_UNICAST;
	}
	if (netlink >= 0)
		close(netlink);
	return found;
}
