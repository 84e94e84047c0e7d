/* SPDX-License-Identifier: Apache-2.0
 *
 * Moves DNS datagrams in batches, with the interface and the address of each. datagrams.h names the callers.
 */
#define _GNU_SOURCE /* recvmmsg(2), struct in6_pktinfo */
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include "datagrams.h"

#define ERRORS_MAX 16            /* errors of earlier answers, each of which a receive reports once */
#define CONTROL_MAX 160          /* bytes; the two kinds of pktinfo, the original destination, the count of lost ones */

_Static_assert(sizeof(struct sockaddr_in6) == sizeof(((struct datagram_way *)0)->peer), "peer");
_Static_assert(sizeof(struct in6_pktinfo) == sizeof(((struct datagram_way *)0)->destination), "destination");

/* Reads where a datagram arrived. The v4 form counts before the v6 one, whose address would be v4-mapped. */
static void read_arrival(struct msghdr *message, struct datagram_way *out, uint32_t *lost)
{
	struct in6_pktinfo to = {0};
	for (struct cmsghdr *control = CMSG_FIRSTHDR(message); control; control = CMSG_NXTHDR(message, control)) {
		if (control->cmsg_level == IPPROTO_IPV6 && control->cmsg_type == IPV6_PKTINFO) {
			memcpy(&to, CMSG_DATA(control), sizeof to);
		} else if (control->cmsg_level == IPPROTO_IP && control->cmsg_type == IP_PKTINFO) {
			struct in_pktinfo v4;
			memcpy(&v4, CMSG_DATA(control), sizeof v4);
			memset(&to, 0, sizeof to);
			memset(to.ipi6_addr.s6_addr + 10, 0xff, 2);
			memcpy(to.ipi6_addr.s6_addr + 12, &v4.ipi_addr, 4);
			to.ipi6_ifindex = (unsigned)v4.ipi_ifindex;
		} else if (control->cmsg_level == SOL_SOCKET && control->cmsg_type == SO_RXQ_OVFL) {
			memcpy(lost, CMSG_DATA(control), sizeof *lost);
		}
	}
	out->interface = to.ipi6_ifindex;
	memcpy(out->destination, &to, sizeof to);
}

int datagrams_receive(int fd, struct datagram *out, uint32_t count, uint32_t *lost)
{
	struct mmsghdr messages[DATAGRAMS_MAX];
	struct iovec parts[DATAGRAMS_MAX];
	_Alignas(struct cmsghdr) uint8_t controls[DATAGRAMS_MAX][CONTROL_MAX];
	int received = -1;
	count = count < DATAGRAMS_MAX ? count : DATAGRAMS_MAX;
	for (uint32_t i = 0; i < count; i++) {
		parts[i] = (struct iovec){out[i].bytes, DATAGRAM_MAX};
		messages[i].msg_hdr = (struct msghdr){.msg_name = out[i].way.peer, .msg_namelen = sizeof out[i].way.peer,
		                                      .msg_iov = &parts[i], .msg_iovlen = 1,
		                                      .msg_control = controls[i], .msg_controllen = CONTROL_MAX};
	}
	for (int tries = 0; tries < ERRORS_MAX; tries++)
		if ((received = recvmmsg(fd, messages, count, MSG_DONTWAIT, NULL)) >= 0 || errno == EAGAIN)
			break;
	for (int i = 0; i < received; i++) {
		out[i].way.peer_size = messages[i].msg_hdr.msg_namelen;
		out[i].length = messages[i].msg_len;
		read_arrival(&messages[i].msg_hdr, &out[i].way, lost);
	}
	return received < 0 ? 0 : received;
}

static void write_source(struct msghdr *message, const struct datagram_way *way)
{
	struct cmsghdr *control = CMSG_FIRSTHDR(message);
	control->cmsg_level = IPPROTO_IPV6;
	control->cmsg_type = IPV6_PKTINFO;
	control->cmsg_len = CMSG_LEN(sizeof way->destination);
	memcpy(CMSG_DATA(control), way->destination, sizeof way->destination);
}

int datagrams_send(int fd, const struct datagram *answers, uint32_t count)
{
	struct mmsghdr messages[DATAGRAMS_MAX];
	struct iovec parts[DATAGRAMS_MAX];
	_Alignas(struct cmsghdr) uint8_t controls[DATAGRAMS_MAX][CMSG_SPACE(sizeof(struct in6_pktinfo))];
	uint32_t next = 0;
	int sent = 0;
	count = count < DATAGRAMS_MAX ? count : DATAGRAMS_MAX;
	memset(controls, 0, count * sizeof *controls);
	for (uint32_t i = 0; i < count; i++) {
		parts[i] = (struct iovec){(void *)answers[i].bytes, answers[i].length};
		messages[i].msg_hdr = (struct msghdr){.msg_name = (void *)answers[i].way.peer, .msg_namelen = answers[i].way.peer_size,
		                                      .msg_iov = &parts[i], .msg_iovlen = 1,
		                                      .msg_control = controls[i], .msg_controllen = sizeof controls[i]};
		write_source(&messages[i].msg_hdr, &answers[i].way);
	}
	while (next < count) {
		int result = sendmmsg(fd, messages + next, count - next, MSG_DONTWAIT);
		sent += result > 0 ? result : 0;
		next += result > 0 ? (uint32_t)result : 1; /* the first one failed: go on behind it */
	}
	return sent;
}
