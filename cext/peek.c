/* SPDX-License-Identifier: Apache-2.0
 *
 * Peeks at a flow's sockets. Owns nothing; see peek.h.
 */
#include <errno.h>
#include <sys/socket.h>

#include "peek.h"

#define LOOKS_MAX 4      /* peeks at an incomplete head before single bytes stop waking the thread */
#define QUIET_BYTES 1024 /* bytes that wake the thread after that */
#define QUIET_TIME 0.05  /* seconds after which it peeks again in any case */

/* A side's `looks` after too many peeks. */
enum { QUIET = LOOKS_MAX + 1, STALLED };

ssize_t peek(const struct flows *flows, struct side *side, size_t most)
{
	if ((!side->is_readable || side->is_quiet) && !side->has_closed)
		return -1;
	ssize_t got = recv(side->fd, flows->workspace->buffer, most, MSG_PEEK);
	side->is_readable = got == (ssize_t)most;
	return got >= 0 ? got : errno == EAGAIN ? -1 : -2;
}

void looked(struct side *side, ssize_t got, uint64_t allowed)
{
	side->is_readable |= allowed < (uint64_t)got;
}

static int set_low_water(const struct side *side, int bytes)
{
	return setsockopt(side->fd, SOL_SOCKET, SO_RCVLOWAT, &bytes, sizeof bytes);
}

void hear_every_byte(struct flow *flow, struct side *side)
{
	if (side->looks > LOOKS_MAX && set_low_water(side, 1) < 0)
		flow->is_broken = 1; /* fewer bytes than the old mark would never wake the thread */
	side->looks = side->is_quiet = 0;
	side->seen = 0;
}

/* No bytes have come since the last peek: lets the next byte wake the thread, and no timer. The option is set once for the
 * same bytes, since setting it can wake the thread. Returns 0 if it can't be set. */
static int wait_for_any_byte(struct side *side, ssize_t got)
{
	if (side->looks == STALLED)
		return 1;
	if (set_low_water(side, (int)got + 1) < 0)
		return 0;
	side->looks = STALLED;
	return 1;
}

void look_later(const struct flows *flows, struct flow *flow, struct side *side, ssize_t got)
{
	if (side->looks < LOOKS_MAX) {
		side->looks++;
		return;
	}
	if (side->seen == (uint32_t)got && wait_for_any_byte(side, got))
		return;
	side->looks = QUIET;
	side->seen = (uint32_t)got;
	int bytes = (int)got + QUIET_BYTES;
	side->is_quiet = set_low_water(side, bytes < HEAD_MAX ? bytes : HEAD_MAX) == 0;
	flow->look_again = flows->now + QUIET_TIME;
}
