/* SPDX-License-Identifier: Apache-2.0
 *
 * A flow's life: accept, identify, peek, decide, dial, move. Called by the flow's thread alone.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "policy.h"
#include "sniff.h"
#include "relay.h"
#include "names.h"
#include "dial.h"
#include "flow.h"

#define DNS_PORT 53
#define PKTOPTIONS 6 /* IPV6_2292PKTOPTIONS: gives the SYN's interface for v6 and v4-mapped peers alike */
#define ACCEPTS_MAX 64 /* in one turn */

static void begin_dial(struct thread *thread, struct flow *flow);

/* ---- ends ---- */

static void set_linger(int fd, int is_reset)
{
	struct linger linger = {is_reset, 0};
	if (fd >= 0)
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
}

static struct relay_event event_of(const struct flow *flow, enum event_kind kind)
{
	struct relay_event event = {.kind = kind, .fd = -1, .flow = flow->number, .container = flow->container->id,
	                            .protocol = flow->protocol, .decision = flow->decision, .cause = flow->cause,
	                            .client = flow->from, .destination = flow->to, .sent = flow->sent.moved,
	                            .received = flow->received.moved};
	if (flow->host)
		strncpy(event.host, flow->host, HOST_MAX);
	return event;
}

static void stop_counting_opening(struct flow *flow)
{
	if (flow->is_opening)
		atomic_fetch_sub(&flow->container->openings, 1);
	flow->is_opening = 0;
}

/* Takes the flow off its thread. Its memory stays until the thread's turn ends: epoll may have named it twice. */
static void retire(struct thread *thread, struct flow *flow)
{
	stop_counting_opening(flow);
	direction_free(thread, flow, &flow->sent);
	direction_free(thread, flow, &flow->received);
	dial_cancel(flow->dial);
	flow->dial = NULL;
	if (flow->client >= 0)
		close(flow->client);
	if (flow->upstream >= 0)
		close(flow->upstream);
	flow->client = flow->upstream = -1;
	COUNT(flow, sent, flow->sent.moved);
	COUNT(flow, received, flow->received.moved);
	COUNT(flow, flows, (uint64_t)-1);
	*flow->link = flow->next;
	if (flow->next)
		flow->next->link = flow->link;
	flow->stage = STAGE_DEAD;
	flow->next = thread->dead;
	thread->dead = flow;
}

void flow_end(struct thread *thread, struct flow *flow, enum end_cause cause)
{
	flow->cause = (uint8_t)cause;
	set_linger(flow->client, cause != END_DONE);
	set_linger(flow->upstream, cause != END_DONE);
	if (cause == END_RESET)
		COUNT(flow, reset, 1);
	else if (cause == END_BUDGET)
		COUNT(flow, over_budget, 1);
	else if (cause == END_REFUSED || cause == END_OPENING_DEADLINE)
		COUNT(flow, refused, 1);
	else if (cause == END_DIAL_FAILED || cause == END_DIAL_GUARD || cause == END_NAME_UNKNOWN)
		COUNT(flow, failed_dials, 1);
	if (thread->relay->options.reports) {
		struct relay_event event = event_of(flow, EVENT_ENDED);
		event.seconds = thread->now - flow->began;
		relay_post(thread->relay, &event);
	}
	retire(thread, flow);
}

/* Gives the client's socket to Python, nothing consumed. */
static void hand_off(struct thread *thread, struct flow *flow)
{
	struct container *container = flow->container;
	if (flow->sent.moved || flow->received.moved) {
		flow_end(thread, flow, END_REFUSED); /* the client has seen another server's bytes: no handler can answer now */
		return;
	}
	if (atomic_fetch_add(&container->handoffs, 1) >= container->budget.handoffs) {
		atomic_fetch_sub(&container->handoffs, 1);
		flow_end(thread, flow, END_BUDGET);
		return;
	}
	struct relay_event event = event_of(flow, EVENT_HANDOFF);
	event.fd = flow->client;
	epoll_ctl(thread->epoll, EPOLL_CTL_DEL, flow->client, NULL);
	set_linger(flow->client, 0);
	if (relay_post(thread->relay, &event) < 0) {
		atomic_fetch_sub(&container->handoffs, 1);
		flow_end(thread, flow, END_NO_RESOURCES);
		return;
	}
	COUNT(flow, handled, 1);
	flow->client = -1;
	retire(thread, flow);
}

/* ---- deciding ---- */

/* The name the container's DNS gave for the destination, where the opening names none. */
static void name_from_destination(struct flow *flow)
{
	pthread_mutex_lock(&flow->container->lock);
	struct name *name = names_by_address(flow->container->names, flow->to.address);
	if (name && !flow->host)
		flow->host = strdup(name->text);
	pthread_mutex_unlock(&flow->container->lock);
}

static void decide(struct flow *flow, const struct table *table, uint32_t protocol)
{
	flow->protocol = (uint8_t)protocol;
	flow->decision = policy_decide(table->blob, protocol, flow->host, flow->host ? (uint32_t)strlen(flow->host) : 0, &flow->to);
}

/* Acts on what the opening says. */
static void judged(struct thread *thread, struct flow *flow, const struct table *table, const struct opening *opening)
{
	if (opening->host_length) {
		free(flow->host);
		flow->host = strdup(opening->host);
	}
	decide(flow, table, opening->protocol);
	flow->is_judged = 1;
	stop_counting_opening(flow);
	int is_http = opening->protocol == PROTOCOL_HTTP, passes = flow->decision.verdict == VERDICT_SPLICE;
	/* Another request of this flow could be decided differently, or read differently: Python decides each. */
	if (is_http && (!passes || policy_differs(table->blob)))
		hand_off(thread, flow);
	else if (!passes)
		flow_end(thread, flow, END_REFUSED);
	else if (flow->stage == STAGE_OPENING)
		begin_dial(thread, flow);
}

/* Peeks at the client's first bytes; nothing is consumed. `is_final`: no more is waited for. */
static void judge(struct thread *thread, struct flow *flow, int is_final)
{
	struct opening opening;
	ssize_t got = recv(flow->client, thread->buffer, OPENING_MAX, MSG_PEEK);
	if (got < 0 && errno == EAGAIN)
		return;
	if (got < 0) {
		flow_end(thread, flow, END_RESET);
		return;
	}
	if (!flow->first_byte)
		flow->first_byte = thread->now;
	sniff(thread->buffer, (uint32_t)got, is_final || got == 0 || flow->has_fin, &opening);
	if (opening.protocol == PROTOCOL_NONE)
		return;
	struct table *table = table_of(flow->container);
	if (!table) {
		flow_end(thread, flow, END_REFUSED);
		return;
	}
	judged(thread, flow, table, &opening);
	table_release(table);
}

/* ---- dialling ---- */

/* No connection could be made. A plain HTTP client that has been sent nothing is told so by Python. */
static void dial_failed(struct thread *thread, struct flow *flow, enum end_cause cause)
{
	flow->cause = (uint8_t)cause;
	if (flow->is_judged && flow->protocol == PROTOCOL_HTTP)
		hand_off(thread, flow);
	else
		flow_end(thread, flow, cause);
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

/* Where to dial: the destination first, then its name's other addresses; only the name's for a synthetic one.
 * Returns the count, 0 while the name is being resolved, -1 where it can't be. */
static int candidates(struct thread *thread, struct flow *flow, struct endpoint *to)
{
	struct container *container = flow->container;
	uint32_t count = 0;
	int result = 0;
	pthread_mutex_lock(&container->lock);
	struct name *name = names_by_address(container->names, flow->to.address);
	if (!name || !name->is_synthetic)
		add_candidate(to, &count, flow->to.address, flow->to.port);
	int is_fresh = name && name->count && name->expires > thread->now;
	for (uint32_t i = 0; is_fresh && i < name->count && count <= NAME_ADDRESSES_MAX; i++)
		add_candidate(to, &count, name->addresses[i], flow->to.port);
	if (count == 0 && name->has_failed && flow->stage == STAGE_RESOLVING) {
		result = -1;
	} else if (count == 0 && !name->is_asked) {
		struct relay_event event = event_of(flow, EVENT_RESOLVE);
		memcpy(event.host, name->text, sizeof event.host);
		name->has_failed = 0;
		name->is_asked = relay_post(thread->relay, &event) == 0;
	}
	pthread_mutex_unlock(&container->lock);
	return count ? (int)count : result;
}

/* Leaves what may be dialled. Returns how many were refused by the guard. */
static uint32_t guard(struct thread *thread, struct flow *flow, struct endpoint *to, uint32_t *count)
{
	struct table *table = table_of(flow->container);
	uint32_t kept = 0, refused = 0;
	for (uint32_t i = 0; i < *count; i++) {
		/* The host's own addresses may be dialled where a rule names them, as other local ones. */
		int is_public = policy_may_dial(NULL, &to[i]), is_named = table && policy_may_dial(table->blob, &to[i]);
		int route = dial_is_unicast(thread->netlink, &to[i]);
		if (route < 0)
			continue;
		if (is_named && (route == 1 || !is_public))
			to[kept++] = to[i];
		else
			refused++;
	}
	if (table)
		table_release(table);
	*count = kept;
	return refused;
}

static void begin_dial(struct thread *thread, struct flow *flow)
{
	struct endpoint to[NAME_ADDRESSES_MAX + 1];
	int found = candidates(thread, flow, to);
	if (found < 0) {
		dial_failed(thread, flow, END_NAME_UNKNOWN);
		return;
	}
	if (flow->stage != STAGE_RESOLVING)
		flow->stage_began = thread->now;
	if (found == 0) {
		flow->stage = STAGE_RESOLVING;
		return;
	}
	uint32_t count = (uint32_t)found, refused = guard(thread, flow, to, &count);
	if (count == 0) {
		dial_failed(thread, flow, refused ? END_DIAL_GUARD : END_DIAL_FAILED);
		return;
	}
	dial_order(to, count);
	flow->stage = STAGE_DIALLING;
	flow->dial = dial_new(thread->epoll, (uint64_t)(uintptr_t)flow | 1, to, count);
	if (!flow->dial) {
		flow_end(thread, flow, END_NO_RESOURCES);
		return;
	}
	flow_service(thread, flow, 0);
}

static void step_dial(struct thread *thread, struct flow *flow)
{
	enum dial_state state = dial_step(flow->dial, thread->now);
	if (state == DIAL_FAILED) {
		int is_full = flow->dial->error == EMFILE || flow->dial->error == ENFILE;
		dial_failed(thread, flow, is_full ? END_NO_RESOURCES : END_DIAL_FAILED);
	} else if (state == DIAL_CONNECTED) {
		flow->upstream = dial_take(flow->dial);
		dial_cancel(flow->dial);
		flow->dial = NULL;
		flow->stage = STAGE_MOVING;
		flow->last_byte = thread->now;
		COUNT(flow, spliced, 1);
	}
}

/* ---- moving ---- */

static void move_both(struct thread *thread, struct flow *flow)
{
	enum moved sent = MOVED_IDLE;
	if (flow->is_judged)
		sent = move(thread, flow, flow->client, flow->upstream, &flow->sent);
	enum moved received = move(thread, flow, flow->upstream, flow->client, &flow->received);
	if (sent == MOVED_BROKEN || received == MOVED_BROKEN) {
		flow_end(thread, flow, END_RESET);
	} else if (flow->sent.is_shut && flow->received.is_shut) {
		flow_end(thread, flow, END_DONE);
	} else if ((sent == MOVED_MORE || received == MOVED_MORE) && !flow->is_ready) {
		flow->is_ready = 1;
		flow->next_ready = thread->ready;
		thread->ready = flow;
	}
}

void flow_service(struct thread *thread, struct flow *flow, int is_broken)
{
	if (is_broken && flow->stage != STAGE_DEAD) {
		flow_end(thread, flow, END_RESET);
		return;
	}
	if (!flow->is_judged && flow->stage != STAGE_DEAD)
		judge(thread, flow, 0);
	if (flow->stage == STAGE_DIALLING)
		step_dial(thread, flow);
	if (flow->stage == STAGE_MOVING)
		move_both(thread, flow);
}

/* ---- deadlines ---- */

static void tick_opening(struct thread *thread, struct flow *flow)
{
	const struct relay_options *options = &thread->relay->options;
	double waited = thread->now - flow->began;
	if (flow->first_byte) {
		if (thread->now - flow->first_byte > options->opening_deadline)
			judge(thread, flow, 1);
	} else if (flow->stage == STAGE_OPENING && flow->decision.verdict == VERDICT_SPLICE && waited > options->sniff_wait) {
		begin_dial(thread, flow); /* perhaps the server speaks first; the client's bytes are judged when they come */
	} else if (flow->stage == STAGE_OPENING && waited > options->opening_deadline) {
		flow_end(thread, flow, END_OPENING_DEADLINE);
	}
}

static void tick_moving(struct thread *thread, struct flow *flow)
{
	const struct relay_options *options = &thread->relay->options;
	double idle = thread->now - flow->last_byte;
	int is_half_closed = flow->sent.has_ended || flow->received.has_ended;
	if (idle > options->idle_deadline || (is_half_closed && idle > options->linger_deadline))
		flow_end(thread, flow, END_IDLE_DEADLINE);
}

void flow_tick(struct thread *thread, struct flow *flow)
{
	double waited = thread->now - flow->stage_began;
	if (atomic_load(&flow->container->is_gone)) {
		flow_end(thread, flow, END_DETACHED);
		return;
	}
	if (!flow->is_judged)
		tick_opening(thread, flow);
	if (flow->stage == STAGE_RESOLVING && waited > thread->relay->options.dial_deadline)
		dial_failed(thread, flow, END_NAME_UNKNOWN);
	else if (flow->stage == STAGE_RESOLVING)
		begin_dial(thread, flow);
	else if (flow->stage == STAGE_DIALLING && waited > thread->relay->options.dial_deadline)
		dial_failed(thread, flow, END_DIAL_FAILED);
	else if (flow->stage == STAGE_DIALLING)
		flow_service(thread, flow, 0);
	else if (flow->stage == STAGE_MOVING)
		tick_moving(thread, flow);
}

/* ---- accepting ---- */

static void endpoint_of(const struct sockaddr_in6 *address, struct endpoint *out)
{
	memcpy(out->address, &address->sin6_addr, 16);
	out->port = ntohs(address->sin6_port);
	out->reserved = 0;
}

/* The interface the SYN came in on, 0 where the kernel doesn't say. */
static uint32_t interface_of(int fd)
{
	_Alignas(struct cmsghdr) char options[256];
	socklen_t length = sizeof options;
	if (getsockopt(fd, IPPROTO_IPV6, PKTOPTIONS, options, &length) < 0)
		return 0;
	struct msghdr message = {.msg_control = options, .msg_controllen = length};
	for (struct cmsghdr *item = CMSG_FIRSTHDR(&message); item; item = CMSG_NXTHDR(&message, item)) {
		struct in6_pktinfo info;
		if (item->cmsg_level != IPPROTO_IPV6 || (item->cmsg_type != IPV6_PKTINFO && item->cmsg_type != IPV6_2292PKTINFO))
			continue;
		memcpy(&info, CMSG_DATA(item), sizeof info);
		return (uint32_t)info.ipi6_ifindex;
	}
	return 0;
}

static void reset(int fd)
{
	set_linger(fd, 1);
	close(fd);
}

/* Whose connection is it? NULL: nobody's whose address it has. Takes a reference. */
static struct container *identify(struct relay *relay, int fd, const struct endpoint *from)
{
	struct container *container = container_find(relay, interface_of(fd));
	if (container && memcmp(from->address, container->v4, 16) != 0 && memcmp(from->address, container->v6, 16) != 0) {
		container_release(container);
		return NULL;
	}
	return container;
}

static int has_room(struct thread *thread, struct container *container)
{
	struct relay *relay = thread->relay;
	return atomic_load(&container->counters.flows) < container->budget.flows &&
	       atomic_load(&container->openings) < container->budget.openings &&
	       atomic_load(&relay->counters.flows) < relay->options.flows;
}

static struct flow *flow_new(struct thread *thread, struct container *container, int fd)
{
	struct flow *flow = calloc(1, sizeof *flow);
	if (!flow)
		return NULL;
	flow->container = container;
	flow->client = fd;
	flow->upstream = -1;
	flow->sent.pipe[0] = flow->sent.pipe[1] = flow->received.pipe[0] = flow->received.pipe[1] = -1;
	flow->number = atomic_fetch_add(&thread->relay->numbers, 1) + 1;
	flow->began = flow->last_byte = thread->now;
	flow->is_opening = 1;
	atomic_fetch_add(&container->openings, 1);
	COUNT(flow, accepted, 1);
	COUNT(flow, flows, 1);
	flow->next = thread->flows;
	flow->link = &thread->flows;
	if (flow->next)
		flow->next->link = &flow->next;
	thread->flows = flow;
	return flow;
}

/* Ports whose clients speak first: they are waited for before anything is dialled. */
static int client_speaks_first(uint16_t port)
{
	return port == 80 || port == 443;
}

static void begin(struct thread *thread, struct flow *flow)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.u64 = (uint64_t)(uintptr_t)flow};
	struct table *table = table_of(flow->container);
	if (!table) {
		flow_end(thread, flow, END_REFUSED);
		return;
	}
	name_from_destination(flow);
	decide(flow, table, PROTOCOL_OPAQUE);
	table_release(table);
	if (epoll_ctl(thread->epoll, EPOLL_CTL_ADD, flow->client, &event) < 0) {
		flow_end(thread, flow, END_NO_RESOURCES);
	} else if (flow->to.port == DNS_PORT) {
		flow->protocol = PROTOCOL_NONE;
		flow->decision = (struct decision){VERDICT_HANDLE, NO_RULE, flow->decision.generation};
		hand_off(thread, flow);
	} else if (!client_speaks_first(flow->to.port) && flow->decision.verdict == VERDICT_SPLICE) {
		begin_dial(thread, flow);
	}
}

static void admit(struct thread *thread, int fd, const struct sockaddr_in6 *peer)
{
	struct sockaddr_in6 own;
	socklen_t length = sizeof own;
	struct endpoint from;
	int on = 1;
	endpoint_of(peer, &from);
	struct container *container = identify(thread->relay, fd, &from);
	if (!container || getsockname(fd, (struct sockaddr *)&own, &length) < 0) {
		reset(fd);
	} else if (!has_room(thread, container)) {
		atomic_fetch_add(&container->counters.over_budget, 1);
		atomic_fetch_add(&thread->relay->counters.over_budget, 1);
		reset(fd);
	} else {
		struct flow *flow = flow_new(thread, container, fd);
		if (flow) {
			flow->from = from;
			endpoint_of(&own, &flow->to);
			setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
			begin(thread, flow);
			return; /* the flow has the container's reference */
		}
		reset(fd);
	}
	if (container)
		container_release(container);
}

/* No descriptor is free: the spare one's place lets the connection be accepted and reset, else the loop would spin on it. */
static void refuse_one(struct thread *thread)
{
	if (thread->spare < 0)
		return;
	close(thread->spare);
	int fd = accept4(thread->relay->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd >= 0)
		reset(fd);
	thread->spare = dup(thread->epoll);
}

void flow_accept(struct thread *thread)
{
	for (int i = 0; i < ACCEPTS_MAX; i++) {
		struct sockaddr_in6 peer;
		socklen_t length = sizeof peer;
		int fd = accept4(thread->relay->listener, (struct sockaddr *)&peer, &length, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0)
			admit(thread, fd, &peer);
		else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
			refuse_one(thread);
		else if (errno == EAGAIN)
			return;
	}
}
