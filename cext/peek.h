/* Peek: reads the next bytes of a flow's socket without consuming them, and decides when to look again.
 *
 * Called by the steps of a flow and, before a handoff, by flow.c.
 */
#ifndef PYINTERCEPTOR_PEEK_H
#define PYINTERCEPTOR_PEEK_H

#include <sys/types.h>

#include "flow.h"

/* Peeks at up to `most` bytes. Returns their count, 0 at the end, -1 if nothing new has arrived, or -2 with errno if
 * the socket has failed. A socket reports an error only once, and this call may be the one that gets it. */
ssize_t peek(const struct flows *flows, struct side *side, size_t most);

/* After a peek at `got` bytes of which `allowed` may pass: the others have already arrived, so epoll won't report
 * them again. */
void looked(struct side *side, ssize_t got, uint64_t allowed);

/* Delays the next peek at an incomplete head, so that a head sent in single bytes doesn't cost a peek for each. After
 * LOOKS_MAX peeks the next one comes after QUIET_TIME; until then SO_RCVLOWAT lets only many bytes wake the thread.
 * Setting the option wakes it as well, and so does each byte once single bytes have filled the receive buffer:
 * `is_quiet` prevents a peek then. If a peek finds no new bytes, the thread waits for the next byte, without a timer. */
void look_later(const struct flows *flows, struct flow *flow, struct side *side, ssize_t got);

/* Resets SO_RCVLOWAT, so that each byte of a side wakes the thread. Marks the flow broken if that fails. */
void hear_every_byte(struct flow *flow, struct side *side);

#endif
