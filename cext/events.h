/* Events for Python: a bounded ring. Called from any thread. */
#ifndef PYINTERCEPTOR_EVENTS_H
#define PYINTERCEPTOR_EVENTS_H

#include "relay.h"

void signal_fd(int fd);
int relay_post(struct relay *relay, const struct relay_event *event); /* 0, or -1 where there is no room */

#endif
