/* SPDX-License-Identifier: Apache-2.0
 *
 * Sizes of socket buffers. Owns nothing; buffers.h names the callers.
 */
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "buffers.h"

#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72 /* Linux 5.14 */
#endif
#define AUTOMATIC (8u << 20)  /* bytes: from here on the kernel chooses the size */
#define SEND_MAX (4u << 20)   /* bytes: the default maximum of net.ipv4.tcp_wmem; a larger size isn't set */
#define FIRST 131072          /* bytes: the default of net.ipv4.tcp_rmem, with which a connection begins */
#define LEAST 16384           /* bytes */
#define USABLE 131072         /* bytes that a connection gets even if others hold the budget, while there are few */

static uint64_t smaller(uint64_t one, uint64_t other)
{
	return one < other ? one : other;
}

uint32_t buffers_size(uint64_t budget, uint32_t sockets, uint64_t held)
{
	uint64_t equal = budget / (sockets ? sockets : 1), rest = budget > held ? (budget - held) / 4 : 0;
	uint64_t usable = smaller(equal / 2, USABLE), size = smaller(equal, rest > usable ? rest : usable), rounded = LEAST;
	if (size >= AUTOMATIC)
		return 0;
	while (rounded * 2 <= size)
		rounded *= 2;
	return (uint32_t)rounded;
}

/* Sets a buffer's size. The kernel doubles the value. Without CAP_NET_ADMIN, net.core.rmem_max and wmem_max limit it. */
static void set_size(int fd, int forced, int limited, uint32_t size)
{
	int value = (int)(size / 2);
	if (setsockopt(fd, SOL_SOCKET, forced, &value, sizeof value) < 0)
		setsockopt(fd, SOL_SOCKET, limited, &value, sizeof value);
}

/* A size is set once the socket is connected: before, it would limit the window scale for good. The peer was then
 * offered half of FIRST already. A smaller buffer would drop those bytes, and a sender whose bytes are lost grows its own
 * buffer, so only the window is clamped further: it closes as bytes come. */
static void apply(int fd, uint32_t size)
{
	int automatic = 0, window = size ? (int)(size / 2) : INT_MAX;
	if (fd < 0)
		return;
	if (size == 0 || size >= SEND_MAX)
		setsockopt(fd, SOL_SOCKET, SO_BUF_LOCK, &automatic, sizeof automatic);
	if (size)
		set_size(fd, SO_RCVBUFFORCE, SO_RCVBUF, size > FIRST ? size : FIRST);
	if (size && size < SEND_MAX)
		set_size(fd, SO_SNDBUFFORCE, SO_SNDBUF, size);
	setsockopt(fd, IPPROTO_TCP, TCP_WINDOW_CLAMP, &window, sizeof window);
}

static uint32_t as_bytes(uint32_t size)
{
	return size ? size : AUTOMATIC;
}

static uint32_t size_of(struct container *container, const struct buffers *buffers)
{
	uint64_t held = atomic_load(&container->held) - buffers->counted;
	return buffers_size(container->budget.buffers, places_used(&container->descriptors), held);
}

int buffers_fit(struct container *container, struct buffers *buffers, int one, int other)
{
	uint32_t size = size_of(container, buffers);
	buffers->are_fitted = 1;
	/* A size that changes often would cost calls: it grows only to four times itself. */
	if (as_bytes(size) >= as_bytes(buffers->size) && as_bytes(size) / 4 < as_bytes(buffers->size))
		return 0;
	apply(one, size);
	apply(other, size);
	buffers->size = size;
	return 1;
}

void buffers_count(struct container *container, struct buffers *buffers, int are_held)
{
	uint32_t bytes = are_held ? 2 * (buffers->are_fitted ? as_bytes(buffers->size) : FIRST) : 0;
	if (bytes == buffers->counted)
		return;
	atomic_fetch_add(&container->held, (uint64_t)bytes - buffers->counted);
	buffers->counted = bytes;
}
