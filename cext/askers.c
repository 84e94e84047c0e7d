/* SPDX-License-Identifier: Apache-2.0
 *
 * The queues and turns of the containers that ask. askers.h names the callers.
 */
#include <stdlib.h>
#include <string.h>

#include "askers.h"

void askers_init(struct askers *askers)
{
	*askers = (struct askers){0};
	askers->last_turn = &askers->first_turn;
}

static struct asker **bucket(const struct askers *askers, uint32_t interface)
{
	return (struct asker **)&askers->buckets[interface % ASKER_BUCKETS];
}

struct asker *asker_add(struct askers *askers, uint32_t container, uint32_t interface, const struct resolver_budget *budget,
                        const char *own)
{
	struct asker *asker = calloc(1, sizeof *asker), **first = bucket(askers, interface);
	if (!asker)
		return NULL;
	asker->references = 1;
	asker->container = container;
	asker->interface = interface;
	asker->budget = *budget;
	asker->last = &asker->first;
	asker->last_patient = &asker->patient;
	strncpy(asker->own, own, HOST_MAX);
	asker->next = *first;
	*first = asker;
	return asker;
}

struct asker *asker_on(const struct askers *askers, uint32_t interface)
{
	struct asker *asker = *bucket(askers, interface);
	while (asker && asker->interface != interface)
		asker = asker->next;
	return asker;
}

void asker_release(struct asker *asker)
{
	if (--asker->references == 0)
		free(asker);
}

static void leave_turns(struct askers *askers, struct asker *asker)
{
	struct asker **link = &askers->first_turn;
	while (*link && *link != asker)
		link = &(*link)->next_turn;
	if (!*link)
		return;
	*link = asker->next_turn;
	if (askers->last_turn == &asker->next_turn)
		askers->last_turn = link;
	asker->has_turn = 0;
}

static void join_turns(struct askers *askers, struct asker *asker)
{
	if (asker->has_turn || !asker->first || asker->with_python >= WITH_PYTHON_MAX)
		return;
	asker->has_turn = 1;
	asker->next_turn = NULL;
	*askers->last_turn = asker;
	askers->last_turn = &asker->next_turn;
}

static struct queued *take(struct asker *asker)
{
	struct queued *taken = asker->first;
	asker->first = taken->next;
	if (!asker->first)
		asker->last = &asker->first;
	asker->queued--;
	return taken;
}

void asker_remove(struct askers *askers, struct asker *asker)
{
	struct asker **link = bucket(askers, asker->interface);
	while (*link != asker)
		link = &(*link)->next;
	*link = asker->next;
	leave_turns(askers, asker);
	while (asker->first)
		free(take(asker));
	asker->is_gone = 1;
	asker_release(asker);
}

int asker_queue(struct askers *askers, struct asker *asker, const struct datagram *datagram)
{
	struct queued *queued = asker->queued < asker->budget.queue ? malloc(sizeof *queued + datagram->length) : NULL;
	if (!queued)
		return 0;
	queued->next = NULL;
	queued->way = datagram->way;
	queued->length = datagram->length;
	memcpy(queued->bytes, datagram->bytes, datagram->length);
	*asker->last = queued;
	asker->last = &queued->next;
	asker->queued++;
	join_turns(askers, asker);
	return 1;
}

struct queued *askers_take(struct askers *askers, struct asker **asker)
{
	struct asker *next = *asker = askers->first_turn;
	if (!next)
		return NULL;
	leave_turns(askers, next);
	struct queued *taken = take(next);
	join_turns(askers, next);
	return taken;
}

void asker_replied(struct askers *askers, struct asker *asker)
{
	asker->with_python--;
	join_turns(askers, asker);
}
