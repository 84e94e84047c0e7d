/* Buffers: the sizes of the socket buffers of a container's connections.
 *
 * While a container has few connections, the kernel chooses the sizes. The more it has, and the more of them hold bytes
 * that their peer doesn't take, the smaller each one's buffers are, so that all together stay near `buffers` of its
 * budget in each direction. Called by flow.c and pump.c, on the connection's thread.
 */
#ifndef PYINTERCEPTOR_BUFFERS_H
#define PYINTERCEPTOR_BUFFERS_H

#include "container.h"

#define BUFFERS_UNFITTED 65536 /* bytes: a connection that has moved fewer has the kernel's first sizes, which are small */

/* Of a pair of sockets; zeroed at first. */
struct buffers {
	uint8_t are_fitted;
	uint32_t size;     /* bytes of each buffer; 0: the kernel chooses */
	uint32_t counted;  /* bytes that count as held by the container */
};

/* Returns the size for each of `sockets` sockets that share a budget, of which `held` bytes are taken; 0: the kernel
 * chooses. Pure. */
uint32_t buffers_size(uint64_t budget, uint32_t sockets, uint64_t held);

/* Fits the buffers of both sockets if their size has changed much. Returns 1 if it did. Call it before bytes move. */
int buffers_fit(struct container *container, struct buffers *buffers, int one, int other);

/* Counts the pair's buffers as held, or as free. */
void buffers_count(struct container *container, struct buffers *buffers, int are_held);

#endif
