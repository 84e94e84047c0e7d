/* SPDX-License-Identifier: Apache-2.0
 *
 * Events for Python: a bounded ring, and an eventfd that becomes readable when the ring is no longer empty. Both belong
 * to struct relay. Called from any thread.
 */
#include <errno.h>
#include <unistd.h>

#include "events.h"
#include "state.h"

void signal_fd(int fd)
{
	uint64_t one = 1;
	while (fd >= 0 && write(fd, &one, sizeof one) < 0 && errno == EINTR)
		;
}

int relay_post(struct relay *relay, const struct relay_event *event)
{
	pthread_mutex_lock(&relay->lock);
	int has_room = relay->event_count < EVENTS_MAX, is_first = relay->event_count == 0;
	if (has_room)
		relay->events[(relay->first_event + relay->event_count++) % EVENTS_MAX] = *event;
	pthread_mutex_unlock(&relay->lock);
	if (is_first)
		signal_fd(relay->event_fd);
	return has_room ? 0 : -1;
}

uint32_t relay_take(struct relay *relay, struct relay_event *out, uint32_t count)
{
	uint32_t taken = 0;
	pthread_mutex_lock(&relay->lock);
	for (; taken < count && relay->event_count; taken++) {
		out[taken] = relay->events[relay->first_event];
		relay->first_event = (relay->first_event + 1) % EVENTS_MAX;
		relay->event_count--;
	}
	pthread_mutex_unlock(&relay->lock);
	return taken;
}

int relay_event_fd(struct relay *relay)
{
	return relay->event_fd;
}
