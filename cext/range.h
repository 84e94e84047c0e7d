/* The range of local ports of the calling thread's network namespace. Called by relay.c and thread.c. */
#ifndef PYINTERCEPTOR_RANGE_H
#define PYINTERCEPTOR_RANGE_H

#include "ports.h"

/* Sets the ports of containers' connections: the first `total` of the range, or its lower three quarters if `total` is
 * 0. Takes the kernel's default range if it can't be read. */
void range_read(struct ports *ports, uint32_t total);

#endif
