/* Receives and sends the containers' DNS datagrams in batches.
 *
 * Owns nothing; borrows the socket. Called by resolver, with its lock held.
 */
#ifndef PYINTERCEPTOR_DATAGRAMS_H
#define PYINTERCEPTOR_DATAGRAMS_H

#include "message.h"

#define DATAGRAMS_MAX 64         /* received or sent with one call */

/* A datagram's way: from the container that sent it to the address that it was sent to, and back. */
struct datagram_way {
	uint32_t interface;          /* on which it arrived; 0 if the kernel didn't report it */
	uint32_t peer_size;
	uint8_t peer[28];            /* struct sockaddr_in6 */
	uint8_t destination[20];     /* struct in6_pktinfo: the source of the answer */
};

struct datagram {
	struct datagram_way way;
	uint32_t length;             /* bytes */
	uint8_t bytes[DATAGRAM_MAX];
};

/* Receives the waiting datagrams, at most `count` (up to DATAGRAMS_MAX), from a socket with IP_PKTINFO and
 * IPV6_RECVPKTINFO. Returns how many; 0 if none is waiting. A datagram above DATAGRAM_MAX is cut. With SO_RXQ_OVFL, sets
 * `lost` to the number of datagrams for which the socket's queue has had no room, ever. */
int datagrams_receive(int fd, struct datagram *out, uint32_t count, uint32_t *lost);

/* Sends answers back on their ways. Those that can't be sent (the container has ended, or its queue is full) are left
 * out. Returns how many were sent. */
int datagrams_send(int fd, const struct datagram *answers, uint32_t count);

#endif
