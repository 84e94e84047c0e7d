/* Accept: whose is a connection, and where does it go? Called by any thread of the relay; the flow belongs to that thread. */
#ifndef PYINTERCEPTOR_ACCEPT_H
#define PYINTERCEPTOR_ACCEPT_H

#include "thread.h"

/* Accepts connections of a capture. Returns 0 where none can be accepted for a while. */
int accept_flows(struct thread *thread, uint32_t capture);

#endif
