/* Events for Python, in a bounded ring. Called from any thread. */
#ifndef PYINTERCEPTOR_EVENTS_H
#define PYINTERCEPTOR_EVENTS_H

#include "relay.h"

/* Makes an eventfd readable. -1 is allowed. */
void signal_fd(int fd);

/* Queues an event. Returns 0, or -1 if the ring is full. */
int relay_post(struct relay *relay, const struct relay_event *event);

#endif
