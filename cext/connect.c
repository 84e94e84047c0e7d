/* SPDX-License-Identifier: Apache-2.0
 *
 * A flow's way to its upstream socket: which addresses, may they be dialled, attempts. Called by the flow's thread.
 */
#include <errno.h>
#include <string.h>

#include "flow.h"

static void set_stage(struct thread *thread, struct flow *flow, enum stage stage)
{
	if (flow->stage == stage)
		return;
	if (stage == STAGE_RESOLVING || flow->stage == STAGE_RESOLVING) {
		flow_delist(flow);
		flow_enlist(flow, stage == STAGE_RESOLVING ? &thread->resolving : &thread->flows);
	}
	if (flow->stage == STAGE_OPENING)
		flow->stage_began = thread->now; /* resolving and dialling share one deadline */
	flow->stage = (uint8_t)stage;
}

/* A client that waits for the server to speak, at a host that a rule names: it may yet turn out to speak HTTP. */
static int may_become_http(const struct flow *flow)
{
	struct table *table = table_of(flow->container);
	int is_ruled = table && policy_decide(table->blob, PROTOCOL_HTTP, flow->name, flow->name ? (uint32_t)strlen(flow->name) : 0,
	                                      &flow->to).verdict == VERDICT_HANDLE;
	table_release(table);
	return is_ruled && !flow->is_judged;
}

/* No connection could be made. A plain HTTP client that has been sent nothing is told so by Python. */
void dial_failed(struct thread *thread, struct flow *flow, enum end_cause cause)
{
	flow->cause = (uint8_t)cause;
	dial_cancel(flow->dial);
	flow->dial = NULL;
	if (flow->is_judged && flow->protocol == PROTOCOL_HTTP) {
		hand_off(thread, flow);
	} else if (may_become_http(flow)) {
		flow->has_failed = 1;
		set_stage(thread, flow, STAGE_OPENING);
	} else {
		flow_end(thread, flow, cause);
	}
}

static void add_candidate(struct endpoint *to, uint32_t *count, const uint8_t address[16], uint16_t port)
{
	for (uint32_t i = 0; i < *count; i++)
		if (memcmp(to[i].address, address, 16) == 0)
			return;
	memcpy(to[*count].address, address, 16);
	to[*count].reserved = 0;
	to[(*count)++].port = port;
}

static void ask_for(struct thread *thread, const struct flow *flow, struct name *name)
{
	struct relay_event event = event_of(flow, EVENT_RESOLVE);
	memcpy(event.host, name->text, sizeof event.host);
	name->has_failed = 0;
	name->is_asked = relay_post(thread->relay, &event) == 0;
}

/* Where to dial: the destination first, then its name's other addresses; only the name's for a synthetic one.
 * Returns the count, 0 while the name is being resolved, -1 where it can't be. */
static int candidates(struct thread *thread, struct flow *flow, struct endpoint *to)
{
	struct container *container = flow->container;
	char host[HOST_MAX + 1];
	int has_host = flow->host && host_canonical(flow->host, (uint32_t)strlen(flow->host), host);
	uint32_t count = 0;
	int result = 0;
	pthread_mutex_lock(&container->lock);
	struct name *name = names_dialled(container->names, flow->to.address, has_host ? host : NULL);
	if (!flow->is_synthetic)
		add_candidate(to, &count, flow->to.address, flow->to.port);
	int is_fresh = name && name->count && name->expires > thread->now;
	for (uint32_t i = 0; is_fresh && i < name->count && count <= NAME_ADDRESSES_MAX; i++)
		add_candidate(to, &count, name->addresses[i], flow->to.port);
	if (count == 0 && (!name || (name->has_failed && flow->stage == STAGE_RESOLVING)))
		result = -1;
	else if (count == 0 && !name->is_asked)
		ask_for(thread, flow, name);
	pthread_mutex_unlock(&container->lock);
	return count ? (int)count : result;
}

/* Leaves what may be dialled. Returns how many were refused by the guard. */
static uint32_t guard(struct thread *thread, struct flow *flow, struct endpoint *to, uint32_t *count)
{
	struct table *table = table_of(flow->container);
	uint32_t kept = 0, refused = 0;
	for (uint32_t i = 0; i < *count; i++) {
		int permitted = dial_permitted(thread->netlink, table ? table->blob : NULL, &to[i]);
		if (permitted == 1)
			to[kept++] = to[i];
		refused += permitted == 0;
	}
	table_release(table);
	*count = kept;
	return refused;
}

void begin_dial(struct thread *thread, struct flow *flow)
{
	struct endpoint to[NAME_ADDRESSES_MAX + 1];
	int found = flow->has_failed ? -1 : candidates(thread, flow, to);
	if (found < 0) {
		dial_failed(thread, flow, flow->has_failed ? flow->cause : END_NAME_UNKNOWN);
		return;
	}
	if (found == 0) {
		set_stage(thread, flow, STAGE_RESOLVING);
		return;
	}
	uint32_t count = (uint32_t)found, refused = guard(thread, flow, to, &count);
	if (count == 0) {
		dial_failed(thread, flow, refused ? END_DIAL_GUARD : END_DIAL_FAILED);
		return;
	}
	dial_order(to, count);
	set_stage(thread, flow, STAGE_DIALLING);
	flow->dial = dial_new(thread->epoll, (uint64_t)(uintptr_t)flow | 1, to, count);
	if (flow->dial)
		flow_service(thread, flow, 0);
	else
		flow_end(thread, flow, END_NO_RESOURCES);
}

void step_dial(struct thread *thread, struct flow *flow)
{
	enum dial_state state = dial_step(flow->dial, thread->now);
	if (state == DIAL_FAILED) {
		int is_full = flow->dial->error == EMFILE || flow->dial->error == ENFILE;
		dial_failed(thread, flow, is_full ? END_NO_RESOURCES : END_DIAL_FAILED);
	} else if (state == DIAL_CONNECTED) {
		flow->upstream = dial_take(flow->dial);
		dial_cancel(flow->dial);
		flow->dial = NULL;
		set_stage(thread, flow, STAGE_MOVING);
		flow->last_byte = thread->now;
		COUNT(flow, spliced, 1);
	}
}
