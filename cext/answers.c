/* SPDX-License-Identifier: Apache-2.0
 *
 * The resolver's answers to containers, and its events for Python.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "addresses.h"
#include "names.h"
#include "resolving.h"

#define ADDRESSES_MAX (2 * ANSWER_ADDRESSES_MAX)

/* ---- events ---- */

struct resolver_event *event_add(struct resolver *resolver, uint32_t kind, const uint8_t *bytes, uint32_t length)
{
	struct resolver_event *event = calloc(1, sizeof *event + length);
	if (!event)
		return NULL;
	event->kind = kind;
	event->length = length;
	if (length)
		memcpy(event->bytes, bytes, length);
	if (!resolver->first_event)
		eventfd_write(resolver->ready, 1);
	*resolver->last_event = event;
	resolver->last_event = &event->next;
	return event;
}

/* Queues an event for a record, with the query as a message. */
static void record_query(struct resolver *resolver, uint32_t kind, const struct query *query, uint32_t code)
{
	uint8_t wire[MESSAGE_HEADER + 259] = {(uint8_t)(query->asked.id >> 8), (uint8_t)query->asked.id, 1, 0, 0, 1};
	if (!resolver->is_observed)
		return;
	if (resolver->records >= RESOLVER_RECORDS_MAX) {
		resolver->dropped++;
		return;
	}
	memcpy(wire + MESSAGE_HEADER, query->question, query->asked.length);
	struct resolver_event *event = event_add(resolver, kind, wire, MESSAGE_HEADER + query->asked.length);
	if (!event)
		return;
	resolver->records++;
	event->container = query->asker->container;
	event->came = query->came;
	event->code = code;
}

struct resolver_event *event_take(struct resolver *resolver)
{
	struct resolver_event *event = resolver->first_event;
	if (!event)
		return NULL;
	resolver->first_event = event->next;
	if (!resolver->first_event)
		resolver->last_event = &resolver->first_event;
	resolver->records -= event->kind == RESOLVER_ANSWERED || event->kind == RESOLVER_OVER_BUDGET;
	return event;
}

/* ---- answers ---- */

void answers_flush(struct resolver *resolver)
{
	if (resolver->count)
		datagrams_send(resolver->socket, resolver->answers, resolver->count);
	resolver->count = 0;
}

struct datagram *answer_datagram(struct resolver *resolver, const struct datagram_way *way)
{
	if (resolver->count == DATAGRAMS_MAX)
		answers_flush(resolver);
	struct datagram *datagram = &resolver->answers[resolver->count++];
	datagram->way = *way;
	return datagram;
}

void answer_error(struct resolver *resolver, const struct query *query, uint32_t code)
{
	struct reply reply = {.code = code, .is_cut = code == 0};
	if (query->token) {
		uint32_t length = reply_write(&query->asked, query->question, &reply, resolver->scratch);
		struct resolver_event *event = event_add(resolver, RESOLVER_REPLY, resolver->scratch, length);
		if (event)
			event->token = query->token;
	} else {
		struct datagram *datagram = answer_datagram(resolver, &query->way);
		datagram->length = reply_write(&query->asked, query->question, &reply, datagram->bytes);
	}
	record_query(resolver, RESOLVER_ANSWERED, query, code);
}

void answer_over_budget(struct resolver *resolver, const struct query *query)
{
	query->asker->counts.over_budget++;
	record_query(resolver, RESOLVER_OVER_BUDGET, query, 0);
	answer_error(resolver, query, 0);
}

/* Adds an answer's addresses to out[ADDRESSES_MAX]. Returns their new number. */
static uint32_t add_addresses(const struct resolver *resolver, const struct known *answer, uint8_t (*out)[16], uint32_t count)
{
	for (uint32_t i = 0; answer && i < answer->facts.count; i++)
		if (resolver->has_v6 || address_is_v4(answer->facts.addresses[i]))
			memcpy(out[count++], answer->facts.addresses[i], 16);
	return count;
}

/* Publishes the addresses of both families, that of the question first. */
static void publish(struct resolver *resolver, const struct query *query, const struct known *own, const struct known *other,
                    double now)
{
	uint8_t addresses[ADDRESSES_MAX][16];
	if (!own->facts.count || !query->asked.host[0])
		return;
	uint32_t count = add_addresses(resolver, own, addresses, 0);
	count = add_addresses(resolver, other, addresses, count);
	double seconds = own->facts.lowest - (now - own->came);
	if (count)
		resolver->options.publish(resolver->options.relay, query->asker->container, query->asked.host, NULL, addresses[0],
		                          count < NAME_ADDRESSES_MAX ? count : NAME_ADDRESSES_MAX,
		                          seconds > NAME_KEPT ? seconds : NAME_KEPT);
}

void answer_query(struct resolver *resolver, const struct query *query, const struct known *own, const struct known *other,
                   double now)
{
	struct passing_on to = {.has_v6 = (uint32_t)resolver->has_v6, .limit = MESSAGE_MAX};
	to.age = now > own->came ? (uint32_t)(now - own->came) : 0;
	publish(resolver, query, own, other, now);
	if (query->token) {
		uint32_t length = answer_write(known_message(own), own->length, &query->asked, query->question, &to,
		                               resolver->scratch);
		struct resolver_event *event = event_add(resolver, RESOLVER_REPLY, resolver->scratch, length);
		if (event)
			event->token = query->token;
	} else {
		struct datagram *datagram = answer_datagram(resolver, &query->way);
		to.limit = answer_limit(&query->asked);
		datagram->length = answer_write(known_message(own), own->length, &query->asked, query->question, &to,
		                                datagram->bytes);
	}
	record_query(resolver, RESOLVER_ANSWERED, query, own->facts.code & 0xf);
}
