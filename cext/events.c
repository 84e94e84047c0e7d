/* SPDX-License-Identifier: Apache-2.0
 *
 * What Python is told: a ring of events that grows, and an eventfd that says there are some. Called from any thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "flow.h"

void signal_fd(int fd)
{
	uint64_t one = 1;
	while (write(fd, &one, sizeof one) < 0 && errno == EINTR)
		;
}

static int grow(struct relay *relay)
{
	uint32_t room = relay->event_room ? relay->event_room * 2 : 64;
	struct relay_event *events = malloc(room * sizeof *events);
	if (!events)
		return 0;
	for (uint32_t i = 0; i < relay->event_count; i++)
		events[i] = relay->events[(relay->first_event + i) % relay->event_room];
	free(relay->events);
	relay->events = events;
	relay->event_room = room;
	relay->first_event = 0;
	return 1;
}

int relay_post(struct relay *relay, const struct relay_event *event)
{
	pthread_mutex_lock(&relay->lock);
	int has_room = relay->event_count < relay->event_room || grow(relay);
	if (has_room)
		relay->events[(relay->first_event + relay->event_count++) % relay->event_room] = *event;
	pthread_mutex_unlock(&relay->lock);
	if (has_room)
		signal_fd(relay->event_fd);
	return has_room ? 0 : -1;
}

uint32_t relay_take(struct relay *relay, struct relay_event *out, uint32_t count)
{
	uint32_t taken = 0;
	pthread_mutex_lock(&relay->lock);
	for (; taken < count && relay->event_count; taken++) {
		out[taken] = relay->events[relay->first_event];
		relay->first_event = (relay->first_event + 1) % relay->event_room;
		relay->event_count--;
	}
	pthread_mutex_unlock(&relay->lock);
	return taken;
}

int relay_event_fd(struct relay *relay)
{
	return relay->event_fd;
}
