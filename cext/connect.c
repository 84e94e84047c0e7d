/* SPDX-License-Identifier: Apache-2.0
 *
 * Finds a flow's addresses and dials them. Owns the dial; connect.h names the callers.
 */
#include <errno.h>
#include <string.h>
#include <strings.h>

#include "connect.h"

#define CANDIDATES_MAX (NAME_ADDRESSES_MAX + 1)
#define ASKED 300.0 /* seconds for which a name without addresses keeps its place: as long as other real names */

static void add_candidate(struct endpoint *to, uint32_t *count, const uint8_t address[16], uint16_t port)
{
	for (uint32_t i = 0; i < *count; i++)
		if (memcmp(to[i].address, address, 16) == 0)
			return;
	memcpy(to[*count].address, address, 16);
	to[*count].reserved = 0;
	to[(*count)++].port = port;
}

/* Requests the addresses of a name without any, unless they were requested already or this flow's request has
 * failed. */
static enum found ask(struct connecting *connecting, struct name *name, char *question)
{
	if (!name || (name->has_failed && connecting->has_asked))
		return FOUND_NONE;
	connecting->has_asked = 1;
	if (name->is_asked)
		return FOUND_NOT_YET;
	memcpy(question, name->text, strlen(name->text) + 1);
	name->has_failed = 0;
	name->is_asked = 1;
	return FOUND_QUESTION;
}

/* The addresses of a flow are found under its container's lock, with its table. */
struct search {
	struct container *container;
	const struct subject *subject;
	const void *table;
	double now;
	char host[HOST_MAX + 1];  /* canonical; empty: none */
};

/* Returns the standing of an address towards the flow. A client that is silent has said nothing yet, and other protocols
 * than HTTP and TLS say no host: judge() and subject_agrees() decide those. */
static enum standing standing_at(const struct search *search, const struct endpoint *to)
{
	uint32_t protocol = search->subject->protocol;
	int says_host = protocol == PROTOCOL_HTTP || protocol == PROTOCOL_TLS;
	return says_host ? standing_of(search->table, search->container->names, *search->host ? search->host : NULL, to)
	                 : STANDING_FREE;
}

/* Returns the name that the client says, which is added if it is new. NULL: it says none, or memory is short. */
static struct name *name_said(const struct search *search)
{
	uint8_t literal[16];
	struct names *names = search->container->names;
	struct name *name = names_by_text(names, search->host);
	if (name || !*search->host || host_address(search->host, (uint32_t)strlen(search->host), literal))
		return name;
	names_publish(names, search->host, NULL, NULL, 0, search->now + ASKED);
	return names_by_text(names, search->host);
}

/* While the ruled addresses aren't known, only a synthetic destination gets here: its name's rules were decided by. */
static void add_unless_ruled(const struct search *search, const uint8_t address[16], struct endpoint *to, uint32_t *count)
{
	struct endpoint candidate = {.port = search->subject->to.port};
	memcpy(candidate.address, address, 16);
	if (*count < CANDIDATES_MAX && standing_at(search, &candidate) != STANDING_RULED)
		add_candidate(to, count, address, candidate.port);
}

static void add_addresses(const struct search *search, const struct name *name, struct endpoint *to, uint32_t *count)
{
	int is_fresh = name && name->count && name->expires > search->now;
	for (uint32_t i = 0; is_fresh && i < name->count; i++)
		add_unless_ruled(search, name->addresses[i], to, count);
}

/* Lists the destination first, then its name's other addresses; for a synthetic destination only the name's
 * addresses. */
static enum found list_as_dialled(struct connecting *connecting, const struct search *search, struct endpoint *to,
                                  uint32_t *count, char *question)
{
	const struct subject *subject = search->subject;
	struct name *name = names_dialled(search->container->names, subject->to.address, *search->host ? search->host : NULL);
	if (!subject->is_synthetic)
		add_candidate(to, count, subject->to.address, subject->to.port);
	add_addresses(search, name, to, count);
	return *count ? FOUND_ADDRESSES : ask(connecting, name, question);
}

/* Lists the addresses of the host that the client says, instead of the destination. */
static enum found list_as_said(struct connecting *connecting, const struct search *search, struct endpoint *to, uint32_t *count,
                               char *question)
{
	uint8_t literal[16];
	struct name *name = name_said(search);
	if (host_address(search->host, (uint32_t)strlen(search->host), literal))
		add_unless_ruled(search, literal, to, count);
	add_addresses(search, name, to, count);
	return *count ? FOUND_ADDRESSES : ask(connecting, name, question);
}

/* A flow to a real address of a ruled host goes where the name leads that its client says, unless the container's DNS
 * gave that address for the name. While the ruled addresses aren't known, it waits for them: their publication wakes
 * it. */
static enum found list_candidates(struct connecting *connecting, struct container *container, const struct subject *subject,
                                  const void *table, double now, struct endpoint *to, uint32_t *count, char *question)
{
	struct search search = {.container = container, .subject = subject, .table = table, .now = now};
	if (!subject->host || !host_canonical(subject->host, (uint32_t)strlen(subject->host), search.host))
		*search.host = 0;
	enum found found = FOUND_NOT_YET;
	pthread_mutex_lock(&container->lock);
	switch (subject->is_synthetic ? STANDING_FREE : standing_at(&search, &subject->to)) {
	case STANDING_FREE:
		found = list_as_dialled(connecting, &search, to, count, question);
		break;
	case STANDING_RULED:
		found = list_as_said(connecting, &search, to, count, question);
		break;
	case STANDING_UNKNOWN:
		break;
	}
	pthread_mutex_unlock(&container->lock);
	return found;
}

void connect_not_asked(struct container *container, const char *question)
{
	pthread_mutex_lock(&container->lock);
	struct name *name = names_by_text(container->names, question);
	if (name)
		name->is_asked = 0;
	pthread_mutex_unlock(&container->lock);
}

/* Keeps the candidates that the policy decides as the flow was decided and that the dial guard permits. Returns how
 * many were refused. */
static uint32_t keep_permitted(int netlink, const struct subject *subject, const void *table, struct endpoint *to,
                               uint32_t *count)
{
	uint32_t kept = 0, refused = 0;
	for (uint32_t i = 0; i < *count; i++) {
		enum permission permission =
			subject_agrees(subject, table, &to[i]) ? dial_permitted(netlink, table, &to[i]) : DIAL_REFUSED;
		if (permission == DIAL_PERMITTED)
			to[kept++] = to[i];
		refused += permission == DIAL_REFUSED;
	}
	*count = kept;
	return refused;
}

static int is_dialled_already(const struct dial *dial, const struct endpoint *to, uint32_t count)
{
	return dial && dial->count == count && memcmp(dial->to, to, count * sizeof *to) == 0;
}

enum found connect_find(struct connecting *connecting, const struct connect_place *place, struct container *container,
                        const struct subject *subject, const void *table, double now, char *question, enum end_cause *cause)
{
	struct endpoint to[CANDIDATES_MAX];
	uint32_t count = 0;
	*cause = END_NAME_UNKNOWN;
	enum found found = list_candidates(connecting, container, subject, table, now, to, &count, question);
	if (found != FOUND_ADDRESSES)
		return found;
	*cause = keep_permitted(place->netlink, subject, table, to, &count) ? END_DIAL_GUARD : END_DIAL_FAILED;
	if (count == 0)
		return FOUND_NONE;
	dial_order(to, count);
	if (is_dialled_already(connecting->dial, to, count))
		return FOUND_ADDRESSES;
	connect_cancel(connecting);
	struct dial_place from = {place->epoll, place->cookie, &container->descriptors, place->ports, place->nudges,
	                          container->id, container->budget.ports};
	connecting->dial = dial_new(&from, to, count);
	return connecting->dial ? FOUND_ADDRESSES : FOUND_NO_MEMORY;
}

static int is_free(struct container *container, const struct subject *subject, const void *table, const char *host,
                   const struct endpoint *to)
{
	enum standing standing = container_standing(container, table, host, to);
	return standing == STANDING_FREE || (standing == STANDING_UNKNOWN && subject->is_synthetic);
}

int connect_suits(struct container *container, const struct subject *subject, const void *table, const char *before)
{
	if (!is_free(container, subject, table, subject->host, &subject->reached))
		return 0;
	if (subject->is_synthetic || (before && subject->host && strcasecmp(before, subject->host) == 0))
		return 1;
	/* A destination that isn't free is replaced by the addresses of the host: another host has others. */
	return is_free(container, subject, table, subject->host, &subject->to) &&
	       (!before || is_free(container, subject, table, before, &subject->to));
}

enum dial_state connect_step(struct connecting *connecting, double now, enum end_cause *cause)
{
	struct dial *dial = connecting->dial;
	enum dial_state state = dial_step(dial, now);
	int is_full = dial->error == EMFILE || dial->error == ENFILE || dial->error == ENOMEM || dial->error == ENOBUFS ||
	              dial->error == ENOSPC;
	*cause = state == DIAL_FAILED && is_full ? END_NO_RESOURCES : END_DIAL_FAILED;
	return state;
}

double connect_next(const struct connecting *connecting)
{
	const struct dial *dial = connecting->dial;
	return dial && dial->started < dial->count ? dial->next : 0;
}

int connect_take(struct connecting *connecting, struct endpoint *reached, struct port_use **port)
{
	int fd = dial_take(connecting->dial, reached, port);
	connect_cancel(connecting);
	return fd;
}

void connect_cancel(struct connecting *connecting)
{
	dial_cancel(connecting->dial);
	connecting->dial = NULL;
}
