/* SPDX-License-Identifier: Apache-2.0
 *
 * Containers, and relay.h's functions on them. Owns the containers, their tables and their names. Called from any
 * thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "route.h"
#include "state.h"

static struct table *table_new(const void *blob, uint32_t size)
{
	struct table *table = aligned_alloc(16, (sizeof *table + size + 15) & ~(size_t)15);
	if (table) {
		atomic_init(&table->references, 1);
		table->size = size;
		memcpy(table->blob, blob, size);
	}
	return table;
}

void table_release(struct table *table)
{
	if (table && atomic_fetch_sub(&table->references, 1) == 1)
		free(table);
}

struct table *table_of(struct container *container)
{
	pthread_mutex_lock(&container->lock);
	struct table *table = container->table;
	if (table)
		atomic_fetch_add(&table->references, 1);
	pthread_mutex_unlock(&container->lock);
	return table;
}

const struct table *share_table(struct share *share)
{
	struct container *container = share->container;
	if (share->published == atomic_load(&container->published))
		return share->table;
	table_release(share->table);
	pthread_mutex_lock(&container->lock);
	share->table = container->table;
	if (share->table)
		atomic_fetch_add(&share->table->references, 1);
	share->published = atomic_load(&container->published);
	pthread_mutex_unlock(&container->lock);
	return share->table;
}

/* ---- containers ---- */

void container_release(struct container *container)
{
	if (atomic_fetch_sub(&container->references, 1) != 1)
		return;
	for (int i = 0; i < THREADS_MAX; i++)
		table_release(container->shares[i].table);
	table_release(container->table);
	names_free(container->names);
	pthread_mutex_destroy(&container->lock);
	free(container);
}

static struct container **bucket(struct relay *relay, uint32_t id)
{
	return &relay->containers[id & (CONTAINER_BUCKETS - 1)];
}

static struct container **bucket_on(struct relay *relay, uint32_t interface)
{
	return &relay->by_interface[interface & (CONTAINER_BUCKETS - 1)];
}

/* find() and find_on(): the caller holds the relay's lock. */
static struct container *find(struct relay *relay, uint32_t id)
{
	struct container *container = *bucket(relay, id);
	while (container && container->id != id)
		container = container->next;
	return container;
}

static struct container *find_on(struct relay *relay, uint32_t capture, uint32_t interface)
{
	struct container *container = *bucket_on(relay, interface);
	while (container && (container->attachment.interface != interface || container->attachment.capture != capture))
		container = container->next_on_interface;
	return container;
}

static struct container *referenced(struct container *container)
{
	if (container)
		atomic_fetch_add(&container->references, 1);
	return container;
}

struct container *container_find(struct relay *relay, uint32_t id)
{
	pthread_mutex_lock(&relay->lock);
	struct container *container = referenced(find(relay, id));
	pthread_mutex_unlock(&relay->lock);
	return container;
}

struct container *container_on(struct relay *relay, uint32_t capture, uint32_t interface)
{
	pthread_mutex_lock(&relay->lock);
	struct container *container = referenced(find_on(relay, capture, interface));
	pthread_mutex_unlock(&relay->lock);
	return container;
}

/* Adds the container to both hash tables. Returns 0, or -EEXIST if its number or interface is taken: both are checked
 * under one lock. */
static int enlist(struct relay *relay, struct container *container)
{
	const struct attachment *to = &container->attachment;
	pthread_mutex_lock(&relay->lock);
	int is_taken = find(relay, container->id) || find_on(relay, to->capture, to->interface);
	if (!is_taken) {
		struct container **first = bucket(relay, container->id), **first_on = bucket_on(relay, to->interface);
		container->next = *first;
		*first = container;
		container->next_on_interface = *first_on;
		*first_on = container;
	}
	pthread_mutex_unlock(&relay->lock);
	return is_taken ? -EEXIST : 0;
}

static struct relay_budget with_defaults(const struct relay_budget *given)
{
	uint32_t flows = given->flows ? given->flows : BUDGET_FLOWS;
	return (struct relay_budget){
		.flows = flows,
		.openings = given->openings ? given->openings : BUDGET_OPENINGS,
		.handoffs = given->handoffs ? given->handoffs : BUDGET_HANDOFFS,
		.pipes = given->pipes ? given->pipes : BUDGET_PIPES,
		.descriptors = given->descriptors ? given->descriptors : 2 * flows + BUDGET_SPARE,
		.names = given->names ? given->names : NAMES_MAX,
		.ports = given->ports ? given->ports : UINT32_MAX,
		.buffers = given->buffers ? given->buffers : BUDGET_BUFFERS,
	};
}

/* Joins the relay's pools. Returns 0, or -EDQUOT if no reserve is left. */
static int join(struct relay *relay, struct container *container)
{
	const struct relay_budget *budget = &container->budget;
	uint32_t reserve = relay->options.reserve < budget->flows ? relay->options.reserve : budget->flows;
	if (!holding_join(&container->flows, &relay->flows, reserve, budget->flows))
		return -EDQUOT;
	if (holding_join(&container->descriptors, &relay->descriptors, 2 * reserve, budget->descriptors))
		return 0;
	holding_leave(&container->flows);
	return -EDQUOT;
}

static void leave(struct container *container)
{
	holding_leave(&container->flows);
	holding_leave(&container->descriptors);
}

int container_take_flow(struct container *container)
{
	if (!places_take(&container->flows, 1))
		return 0;
	if (places_take(&container->descriptors, FLOW_DESCRIPTORS))
		return 1;
	places_give(&container->flows, 1);
	return 0;
}

void container_give_flow(struct container *container, uint32_t descriptors)
{
	places_give(&container->flows, 1);
	places_give(&container->descriptors, descriptors);
}

int relay_add_container(struct relay *relay, uint32_t id, const struct attachment *attachment,
                        const struct relay_budget *budget)
{
	struct container *container = calloc(1, sizeof *container);
	uint64_t seed;
	if (getrandom(&seed, sizeof seed, 0) != sizeof seed || !container || !(container->names = names_new(seed))) {
		free(container);
		return -ENOMEM;
	}
	pthread_mutex_init(&container->lock, NULL);
	atomic_init(&container->references, 1);
	container->id = id;
	container->budget = with_defaults(budget);
	names_set_limit(container->names, container->budget.names);
	container->attachment = *attachment;
	for (int i = 0; i < THREADS_MAX; i++)
		container->shares[i].container = container;
	int result = join(relay, container);
	if (result == 0 && (result = enlist(relay, container)) < 0)
		leave(container);
	if (result < 0)
		container_release(container);
	return result;
}

int relay_publish_policy(struct relay *relay, uint32_t id, const void *blob, uint32_t size)
{
	if (!policy_check(blob, size))
		return -EINVAL;
	struct container *container = container_find(relay, id);
	if (!container)
		return -ENOENT;
	struct table *table = table_new(blob, size), *old = NULL;
	if (table) {
		pthread_mutex_lock(&container->lock);
		old = container->table;
		container->table = table;
		atomic_fetch_add(&container->published, 1);
		pthread_mutex_unlock(&container->lock);
		tell_threads(relay, container, NEWS_POLICY);
	}
	table_release(old);
	container_release(container);
	return table ? 0 : -ENOMEM;
}

/* Removes the container from both hash tables and returns it, or NULL if there is none. The caller takes their
 * reference. */
static struct container *delist(struct relay *relay, uint32_t id)
{
	struct container **link;
	pthread_mutex_lock(&relay->lock);
	struct container *container = find(relay, id);
	if (container) {
		for (link = bucket(relay, id); *link != container; link = &(*link)->next)
			;
		*link = container->next;
		for (link = bucket_on(relay, container->attachment.interface); *link != container; link = &(*link)->next_on_interface)
			;
		*link = container->next_on_interface;
	}
	pthread_mutex_unlock(&relay->lock);
	return container;
}

/* Takes the caller's reference. Returns 0, or -ENOENT if the container is NULL. */
static int tell(struct relay *relay, struct container *container, enum news news)
{
	if (!container)
		return -ENOENT;
	tell_threads(relay, container, news);
	container_release(container);
	return 0;
}

int relay_finish_flows(struct relay *relay, uint32_t id)
{
	return tell(relay, container_find(relay, id), NEWS_FINISH);
}

int relay_end_flows(struct relay *relay, uint32_t id)
{
	return tell(relay, container_find(relay, id), NEWS_GONE);
}

int relay_remove_container(struct relay *relay, uint32_t id)
{
	struct container *container = delist(relay, id);
	if (container)
		leave(container);
	return tell(relay, container, NEWS_GONE);
}

enum standing container_standing(struct container *container, const void *table, const char *host, const struct endpoint *to)
{
	if (policy_standing(table, to) == STANDING_FREE)
		return STANDING_FREE;
	pthread_mutex_lock(&container->lock);
	enum standing standing = standing_of(table, container->names, host, to);
	pthread_mutex_unlock(&container->lock);
	return standing;
}

enum standing relay_standing(struct relay *relay, uint32_t id, const char *host, const struct endpoint *to)
{
	struct container *container = container_find(relay, id);
	struct table *table = container ? table_of(container) : NULL;
	enum standing standing = table ? container_standing(container, table->blob, host, to) : STANDING_UNKNOWN;
	table_release(table);
	if (container)
		container_release(container);
	return standing;
}

void container_release_name(struct container *container, const uint8_t synthetic[16])
{
	pthread_mutex_lock(&container->lock);
	struct name *name = names_by_address(container->names, synthetic);
	if (name && name->flows)
		name->flows--;
	pthread_mutex_unlock(&container->lock);
}

void relay_returned(struct relay *relay, uint32_t id, const uint8_t *synthetic, uint64_t sent, uint64_t received)
{
	struct container *container = container_find(relay, id);
	atomic_fetch_add(&relay->counters.sent, sent);
	atomic_fetch_add(&relay->counters.received, received);
	if (!container)
		return;
	atomic_fetch_sub(&container->handoffs, 1);
	places_return(&container->descriptors, 1);
	atomic_fetch_add(&container->counters.sent, sent);
	atomic_fetch_add(&container->counters.received, received);
	if (synthetic)
		container_release_name(container, synthetic);
	container_release(container);
}

int relay_lend(struct relay *relay, uint32_t id, uint32_t count)
{
	struct container *container = container_find(relay, id);
	if (!container)
		return 0;
	int is_lent = places_lend(&container->descriptors, count);
	container_release(container);
	return is_lent;
}

void relay_give_back(struct relay *relay, uint32_t id, uint32_t count)
{
	struct container *container = container_find(relay, id);
	if (!container)
		return;
	places_return(&container->descriptors, count);
	container_release(container);
}

struct port_use *relay_take_port(struct relay *relay, uint32_t id, const struct endpoint *to, uint32_t *number,
                                 uint32_t *range)
{
	struct container *container = container_find(relay, id);
	if (!container)
		return NULL;
	uint16_t resting = 0;
	struct port_use *port = ports_take(&relay->ports, id, container->budget.ports, to, now(), NULL, &resting);
	*number = resting;
	*range = ports_range(&relay->ports);
	container_release(container);
	return port;
}

void relay_give_port(struct relay *relay, struct port_use *port, int fd)
{
	dial_release(&relay->ports, port, fd, fd >= 0 && dial_rests(fd), now());
}

int relay_publish_name(struct relay *relay, uint32_t id, const char *name, const uint8_t *synthetic, const uint8_t *addresses,
                       uint32_t count, double seconds)
{
	struct container *container = container_find(relay, id);
	if (!container)
		return -ENOENT;
	pthread_mutex_lock(&container->lock);
	struct name *known = names_by_text(container->names, name);
	int is_awaited = known && known->is_asked;
	int result = names_publish(container->names, name, synthetic, addresses, count, now() + seconds);
	pthread_mutex_unlock(&container->lock);
	if (is_awaited)
		tell_threads(relay, container, NEWS_NAMES);
	container_release(container);
	return result;
}

int relay_decide_name(struct relay *relay, uint32_t id, const char *name)
{
	struct container *container = container_find(relay, id);
	struct table *table = container ? table_of(container) : NULL;
	int verdict = table ? (int)policy_decide_name(table->blob, name, (uint32_t)strlen(name)) : VERDICT_REFUSE;
	table_release(table);
	if (container)
		container_release(container);
	return verdict;
}

void relay_name_failed(struct relay *relay, uint32_t id, const char *text)
{
	struct container *container = container_find(relay, id);
	if (!container)
		return;
	pthread_mutex_lock(&container->lock);
	struct name *name = names_by_text(container->names, text);
	if (name) {
		name->is_asked = 0;
		name->has_failed = 1;
	}
	pthread_mutex_unlock(&container->lock);
	if (name)
		tell_threads(relay, container, NEWS_NAMES);
	container_release(container);
}

enum permission relay_may_dial(struct relay *relay, uint32_t id, const struct endpoint *to, int local)
{
	if (local)
		return DIAL_PERMITTED;
	struct container *container = id ? container_find(relay, id) : NULL;
	struct table *table = container ? table_of(container) : NULL;
	int netlink = route_open();
	enum permission permission = netlink < 0 ? DIAL_REFUSED : dial_permitted(netlink, table ? table->blob : NULL, to);
	if (netlink >= 0)
		close(netlink);
	table_release(table);
	if (container)
		container_release(container);
	return permission;
}

static void copy_counters(struct counters *from, struct relay_counters *out)
{
	*out = (struct relay_counters){.accepted = from->accepted, .spliced = from->spliced, .handled = from->handled,
	                               .refused = from->refused, .failed_dials = from->failed_dials,
	                               .over_budget = from->over_budget, .reset = from->reset, .timed_out = from->timed_out,
	                               .no_resources = from->no_resources, .sent = from->sent, .received = from->received,
	                               .flows = from->flows};
}

void relay_count(struct relay *relay, uint32_t id, struct relay_counters *out)
{
	memset(out, 0, sizeof *out);
	struct container *container = id ? container_find(relay, id) : NULL;
	if (id == 0)
		copy_counters(&relay->counters, out);
	if (container) {
		copy_counters(&container->counters, out);
		container_release(container);
	}
}
