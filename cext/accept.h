/* Accept: finds a new connection's container and destination, and begins its flow.
 *
 * Called by thread.c on any thread of the relay; the flow belongs to that thread.
 */
#ifndef PYINTERCEPTOR_ACCEPT_H
#define PYINTERCEPTOR_ACCEPT_H

#include "thread.h"

/* Accepts connections of a capture. Returns 0 if the thread must stop listening for a while, for lack of descriptors
 * or memory. */
int accept_flows(struct thread *thread, uint32_t capture);

#endif
