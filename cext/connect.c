/* SPDX-License-Identifier: Apache-2.0
 *
 * Finds a flow's addresses and dials them. Owns the dial; connect.h names the callers.
 */
#include <errno.h>
#include <string.h>

#include "connect.h"

#define CANDIDATES_MAX (NAME_ADDRESSES_MAX + 1)

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

/* Lists the destination first, then its name's other addresses; for a synthetic destination only the name's
 * addresses. */
static enum found list_candidates(struct connecting *connecting, struct container *container, const struct subject *subject,
                                  double now, struct endpoint *to, uint32_t *count, char *question)
{
	char host[HOST_MAX + 1];
	int has_host = subject->host && host_canonical(subject->host, (uint32_t)strlen(subject->host), host);
	enum found found = FOUND_ADDRESSES;
	pthread_mutex_lock(&container->lock);
	struct name *name = names_dialled(container->names, subject->to.address, has_host ? host : NULL);
	if (!subject->is_synthetic)
		add_candidate(to, count, subject->to.address, subject->to.port);
	int is_fresh = name && name->count && name->expires > now;
	for (uint32_t i = 0; is_fresh && i < name->count && *count < CANDIDATES_MAX; i++)
		add_candidate(to, count, name->addresses[i], subject->to.port);
	if (*count == 0)
		found = ask(connecting, name, question);
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
	enum found found = list_candidates(connecting, container, subject, now, to, &count, question);
	if (found != FOUND_ADDRESSES)
		return found;
	*cause = keep_permitted(place->netlink, subject, table, to, &count) ? END_DIAL_GUARD : END_DIAL_FAILED;
	if (count == 0)
		return FOUND_NONE;
	dial_order(to, count);
	if (is_dialled_already(connecting->dial, to, count))
		return FOUND_ADDRESSES;
	connect_cancel(connecting);
	connecting->dial = dial_new(place->epoll, place->cookie, &container->descriptors, to, count);
	return connecting->dial ? FOUND_ADDRESSES : FOUND_NO_MEMORY;
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

int connect_take(struct connecting *connecting, struct endpoint *reached)
{
	int fd = dial_take(connecting->dial, reached);
	connect_cancel(connecting);
	return fd;
}

void connect_cancel(struct connecting *connecting)
{
	dial_cancel(connecting->dial);
	connecting->dial = NULL;
}
