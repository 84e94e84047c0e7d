/* SPDX-License-Identifier: Apache-2.0
 *
 * The loop over a flow's steps, its deadlines and its ends. Owns every flow; flow.h names the callers.
 */
#define _GNU_SOURCE
#include <assert.h>
#include <errno.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "abi.h"
#include "alert.h"
#include "events.h"
#include "exchange.h"
#include "peek.h"
#include "records.h"
#include "steps.h"

#define ROUNDING 1e-4    /* seconds */
#define FINISHING_LOOK 0.02 /* seconds between two looks at the socket buffers of a flow whose container has ended */

/* ---- lists and counters ---- */

static void enlist(struct flow *flow, struct flow **list)
{
	flow->next = *list;
	flow->link = list;
	if (flow->next)
		flow->next->link = &flow->next;
	*list = flow;
}

static void delist(struct flow *flow)
{
	*flow->link = flow->next;
	if (flow->next)
		flow->next->link = flow->link;
}

/* ---- ends ---- */

void set_linger(int fd, int is_reset)
{
	struct linger linger = {is_reset, 0};
	if (fd >= 0)
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
}

/* Returns 1 if the socket has a pending error. */
static int is_failed(int fd)
{
	struct pollfd state = {.fd = fd};
	return poll(&state, 1, 0) > 0 && (state.revents & POLLERR);
}

static struct relay_event event_of(const struct flow *flow, enum event_kind kind)
{
	const struct subject *subject = &flow->subject;
	struct relay_event event = {.kind = kind, .fd = -1, .flow = flow->number, .container = flow->container->id,
	                            .protocol = flow->protocol, .decision = subject->decision, .cause = flow->cause,
	                            .client = flow->from, .destination = subject->to, .began = flow->steps.accepted,
	                            .judged = flow->steps.judged, .connected = flow->steps.connected,
	                            .is_synthetic = subject->is_synthetic};
	const char *host = subject->host ? subject->host : subject->name;
	if (host)
		strncpy(event.host, host, HOST_MAX);
	return event;
}

static void close_side(const struct flows *flows, struct side *side)
{
	close_watched(flows->epoll, side->fd);
	side->fd = -1;
}

/* Frees everything that the flow owns except its memory, which flows_bury() frees: the turn's events may name the
 * flow again. */
static void retire(struct flows *flows, struct flow *flow)
{
	if (flow->subject.is_synthetic)
		container_release_name(flow->container, flow->subject.to.address);
	buffers_count(flow->container, &flow->buffers, 0);
	direction_free(flows->workspace, flow->container, &flow->sent);
	direction_free(flows->workspace, flow->container, &flow->received);
	connect_cancel(&flow->connecting);
	int rests = flow->cause == END_DONE && !flow->is_servers_end;
	dial_release(flows->ports, flow->port, flow->upstream.fd, rests, flows->now);
	exchange_drop(flow->exchange); /* Python records the requests that it serves */
	flow->exchange = NULL;
	close_side(flows, &flow->client);
	close_side(flows, &flow->upstream);
	timer_clear(&flows->timers, &flow->timer);
	container_give_flow(flow->container, flow->descriptors);
	COUNT(flows, flow, sent, flow->sent.moved);
	COUNT(flows, flow, received, flow->received.moved);
	COUNT(flows, flow, flows, (uint64_t)-1);
	delist(flow);
	flow->next = flows->dead;
	flows->dead = flow;
}

static void count_end(struct flows *flows, struct flow *flow)
{
	switch ((enum end_cause)flow->cause) {
	case END_RESET:
	case END_DETACHED:
		COUNT(flows, flow, reset, 1);
		break;
	case END_BUDGET:
		COUNT(flows, flow, over_budget, 1);
		break;
	case END_REFUSED:
	case END_OPENING_DEADLINE:
		COUNT(flows, flow, refused, 1);
		break;
	case END_DIAL_FAILED:
	case END_DIAL_GUARD:
	case END_NAME_UNKNOWN:
		COUNT(flows, flow, failed_dials, 1);
		break;
	case END_IDLE_DEADLINE:
		COUNT(flows, flow, timed_out, 1);
		break;
	case END_NO_RESOURCES:
		COUNT(flows, flow, no_resources, 1);
		break;
	case END_DONE:
		break;
	}
}

static int is_refusal(enum end_cause cause)
{
	return cause == END_REFUSED || cause == END_DIAL_GUARD || cause == END_BUDGET || cause == END_OPENING_DEADLINE;
}

static void record_end(const struct flows *flows, const struct flow *flow)
{
	const struct subject *subject = &flow->subject;
	enum record_kind kind = is_refusal((enum end_cause)flow->cause) ? RECORD_REFUSAL : RECORD_FLOW;
	const char *host = subject->host ? subject->host : subject->name;
	if (!record_is_wanted(flows->relay, kind))
		return;
	struct relay_record record = {.kind = kind, .container = flow->container->id, .flow = flow->number,
	                              .protocol = flow->protocol, .cause = flow->cause, .decision = subject->decision,
	                              .client = flow->from, .destination = subject->to, .sent = flow->sent.moved,
	                              .received = flow->received.moved, .began = flow->steps.accepted,
	                              .judged = flow->steps.judged, .connected = flow->steps.connected,
	                              .answered = flow->steps.answered, .ended = flows->now};
	if (host)
		strncpy(record.host, host, HOST_MAX);
	record_make(flows->relay, &record);
}

void connection_refused(struct flows *flows, struct container *container, const struct endpoint *from,
                        const struct endpoint *to, enum end_cause cause)
{
	struct flow flow = {.container = container, .cause = (uint8_t)cause, .from = *from, .subject.to = *to,
	                    .subject.decision = {.rule = NO_RULE, .target = NO_TARGET},
	                    .number = atomic_fetch_add(flows->numbers, 1) + 1, .steps.accepted = flows->now};
	count_end(flows, &flow);
	record_end(flows, &flow);
}

/* Answers a refused TLS client that has received nothing yet. Returns 1 if it was answered. */
static int answer_refused(const struct flow *flow)
{
	return flow->protocol == PROTOCOL_TLS && is_refusal((enum end_cause)flow->cause) && !flow->received.moved &&
	       !flow->is_broken && alert_send(flow->client.fd);
}

static void finish(struct flows *flows, struct flow *flow)
{
	set_linger(flow->client.fd, flow->cause != END_DONE && !answer_refused(flow));
	set_linger(flow->upstream.fd, flow->cause != END_DONE);
	count_end(flows, flow);
	end_exchange(flows, flow);
	record_end(flows, flow);
	retire(flows, flow);
}

/* Hands the client's socket to Python, with its unread bytes. Returns END_DONE, or the cause of the failure. */
static enum end_cause hand_off(struct flows *flows, struct flow *flow)
{
	struct container *container = flow->container;
	hear_every_byte(flow, &flow->client);
	if (atomic_fetch_add(&container->handoffs, 1) >= container->budget.handoffs) {
		atomic_fetch_sub(&container->handoffs, 1);
		return END_BUDGET;
	}
	if (!flow->steps.judged)
		flow->steps.judged = flows->now;
	struct relay_event event = event_of(flow, EVENT_HANDOFF);
	event.fd = flow->client.fd;
	buffers_fit(container, &flow->buffers, flow->client.fd, -1);
	set_linger(flow->upstream.fd, 0);
	if (flow->is_broken || epoll_ctl(flows->epoll, EPOLL_CTL_DEL, flow->client.fd, NULL) < 0 ||
	    !places_pass(&container->descriptors)) {
		atomic_fetch_sub(&container->handoffs, 1);
		return END_NO_RESOURCES;
	}
	flow->descriptors--;
	if (relay_post(flows->relay, &event) < 0) {
		places_return(&container->descriptors, 1);
		atomic_fetch_sub(&container->handoffs, 1);
		return END_NO_RESOURCES;
	}
	COUNT(flows, flow, handled, 1);
	flow->client.fd = -1;
	flow->subject.is_synthetic = 0; /* Python now holds the name: relay_returned() releases it */
	flow->sent.moved = flow->received.moved = 0; /* Python reports the socket's counts, which include these bytes */
	return END_DONE;
}

/* ---- transitions ---- */

/* Returns 1 if bytes have passed outside a followed exchange: then no handler can continue the connection. */
static int has_begun_elsewhere(const struct flow *flow)
{
	return flow->state != FLOW_FOLLOWING && (flow->sent.moved || flow->received.moved);
}

/* An illegal transition is a bug of ours: the flow is reset. */
static struct next checked(const struct flow *flow, struct next next)
{
	int is_legal = transition_is_legal((enum flow_state)flow->state, next.state);
	assert(is_legal);
	if (!is_legal)
		return end(END_RESET);
	if (next.state == FLOW_SERVED && has_begun_elsewhere(flow))
		return end(END_REFUSED);
	return next;
}

static void relist(struct flow *flow, enum flow_state state)
{
	if (is_resolving(state) == is_resolving((enum flow_state)flow->state))
		return;
	delist(flow);
	enlist(flow, is_resolving(state) ? &flow->share->resolving : &flow->share->flows);
}

static void enter(struct flows *flows, struct flow *flow, struct next next)
{
	next = checked(flow, next);
	flow->cause = (uint8_t)next.cause;
	if (next.state == FLOW_SERVED && (flow->cause = (uint8_t)hand_off(flows, flow)) != END_DONE)
		next.state = FLOW_ENDED;
	if (is_undecided((enum flow_state)flow->state) && !is_undecided(next.state))
		atomic_fetch_sub(&flow->container->openings, 1);
	else if (!is_undecided((enum flow_state)flow->state) && is_undecided(next.state))
		atomic_fetch_add(&flow->container->openings, 1);
	if (flow->state == FLOW_OPENING && !flow->dial_began)
		flow->dial_began = flows->now; /* one deadline for resolving and dialling together, whatever is published */
	relist(flow, next.state);
	flow->state = (uint8_t)next.state;
	if (next.state == FLOW_ENDED)
		finish(flows, flow);
	else if (next.state == FLOW_SERVED)
		retire(flows, flow);
}

/* ---- the loop ---- */

typedef struct next (*phase)(struct flows *, struct flow *, const void *table);

static const phase PHASES[FLOW_STATES] = {
	[FLOW_OPENING] = step_opening,
	[FLOW_EARLY_RESOLVING] = step_find_early,
	[FLOW_EARLY_DIALLING] = step_dial_early,
	[FLOW_GREETING] = step_greet,
	[FLOW_UNREACHABLE] = step_unreachable,
	[FLOW_RESOLVING] = step_find,
	[FLOW_DIALLING] = step_dial,
	[FLOW_FOLLOWING] = step_follow,
	[FLOW_UNFRAMED] = step_splice,
	[FLOW_SPLICING] = step_splice,
};

static void fit_buffers(struct flow *flow)
{
	if (!buffers_fit(flow->container, &flow->buffers, flow->client.fd, flow->upstream.fd))
		return;
	direction_limit(&flow->sent, flow->buffers.size);
	direction_limit(&flow->received, flow->buffers.size);
}

/* Runs one step with the current table, after deciding the flow anew if the table has changed. */
static struct next run_phase(struct flows *flows, struct flow *flow)
{
	if (flow->progress >= BUFFERS_UNFITTED && is_connected((enum flow_state)flow->state))
		fit_buffers(flow);
	const struct table *table = share_table(flow->share);
	if (flow->published != flow->share->published) {
		flow->published = flow->share->published;
		struct next next = judge_again(flow, table ? table->blob : NULL);
		if (next.state != (enum flow_state)flow->state)
			return next;
	}
	return table ? PHASES[flow->state](flows, flow, table->blob) : end(END_REFUSED);
}

static void set_deadline(struct flows *flows, struct flow *flow);

static void step(struct flows *flows, struct flow *flow)
{
	flow->is_servers_end |= is_connected((enum flow_state)flow->state) && flow->upstream.has_closed && !flow->sent.is_shut;
	while (!is_over(flow)) {
		struct next next = run_phase(flows, flow);
		if (next.state == (enum flow_state)flow->state)
			break;
		enter(flows, flow, next);
	}
	/* Bytes that a side sent before its reset are forwarded first, such as a server's "413" to an upload that it didn't read. */
	if (!is_over(flow) && flow->is_broken)
		enter(flows, flow, end(END_RESET));
	if (is_over(flow))
		return;
	buffers_count(flow->container, &flow->buffers,
	              !direction_is_empty(&flow->sent) || !direction_is_empty(&flow->received));
	uint64_t progress = flow->sent.moved + flow->received.moved + flow->sent.has_ended + flow->received.has_ended;
	if (progress != flow->progress)
		flow->last_byte = flows->now; /* a half-close counts as well: linger_deadline begins with it */
	flow->progress = progress;
	set_deadline(flows, flow);
}

/* ---- deadlines ---- */

/* Keeps the earlier of two deadlines, if `when` is still to come. ROUNDING is added because a sum and a difference of
 * times can differ in their last bit: without it, the timer could fire just before `now - since >= limit` holds. */
static void earlier(double *earliest, double now, double when)
{
	if (when + ROUNDING > now && when + ROUNDING < *earliest)
		*earliest = when + ROUNDING;
}

/* Returns 1 if a followed flow only waits for its server to close, and all bytes of it have passed. */
static int is_closing(const struct flow *flow)
{
	return flow->state == FLOW_FOLLOWING && follow_is_over(&flow->follow) && direction_is_empty(&flow->received);
}

static double deadline_of(const struct flows *flows, const struct flow *flow)
{
	const struct relay_options *options = flows->options;
	enum flow_state state = (enum flow_state)flow->state;
	double earliest = flows->now + options->idle_deadline, now = flows->now;
	if (is_undecided(state)) {
		double since = flow->first_byte > 0 ? flow->first_byte : flow->steps.accepted;
		earlier(&earliest, now, since + options->sniff_wait);
		earlier(&earliest, now, since + options->opening_deadline);
	}
	if (is_resolving(state) || is_dialling(state)) {
		earlier(&earliest, now, flow->dial_began + options->dial_deadline);
		earlier(&earliest, now, connect_next(&flow->connecting));
	}
	if (is_connected(state)) {
		int is_half_closed = flow->sent.has_ended || flow->received.has_ended;
		earlier(&earliest, now, flow->last_byte + options->idle_deadline);
		if (is_half_closed)
			earlier(&earliest, now, flow->last_byte + options->linger_deadline);
		if (is_closing(flow))
			earlier(&earliest, now, flow->last_byte + options->close_deadline);
	}
	earlier(&earliest, now, flow->look_again);
	if (flow->share->finishing > 0)
		earlier(&earliest, now, now + FINISHING_LOOK);
	return earliest;
}

/* Moves the timer only if the deadline is earlier. A timer that fires too early costs one step, less than moving it
 * at each byte. */
static void set_deadline(struct flows *flows, struct flow *flow)
{
	double deadline = deadline_of(flows, flow);
	if (!flow->timer.place || deadline < flow->timer.when)
		timer_set(&flows->timers, &flow->timer, deadline);
}

static int is_idle(const struct flows *flows, const struct flow *flow)
{
	double idle = flows->now - flow->last_byte;
	int is_half_closed = flow->sent.has_ended || flow->received.has_ended;
	return is_connected((enum flow_state)flow->state) &&
	       (idle >= flows->options->idle_deadline || (is_half_closed && idle >= flows->options->linger_deadline));
}

static int has_queued(int fd, unsigned long request)
{
	int count = 0;
	return fd >= 0 && ioctl(fd, request, &count) == 0 && count > 0;
}

/* Returns 1 if bytes that the client sent, or their end, haven't reached the server's host yet. */
static int is_delivering(const struct flow *flow)
{
	return has_queued(flow->client.fd, SIOCINQ) || !direction_is_empty(&flow->sent) ||
	       has_queued(flow->upstream.fd, SIOCOUTQ);
}

static int is_finished(const struct flows *flows, const struct flow *flow)
{
	double finishing = flow->share->finishing, since = flow->last_byte > finishing ? flow->last_byte : finishing;
	return finishing > 0 && flows->now - since >= flows->options->settle_deadline && !is_delivering(flow);
}

/* Closes a flow in place of its server: first towards the client, which may still read, then whole. */
static void close_over(struct flows *flows, struct flow *flow)
{
	if (flow->received.has_ended) {
		enter(flows, flow, end(END_DONE));
		return;
	}
	flow->received.has_ended = 1;
	step(flows, flow);
}

/* Allows the next peek. */
static void wake(struct side *side)
{
	side->is_quiet = 0;
	side->is_readable = side->fd >= 0;
}

/* The deadline has passed, or a later byte has moved it while the timer stayed. */
static void serve_due(struct flows *flows, struct flow *flow)
{
	timer_clear(&flows->timers, &flow->timer);
	if (is_closing(flow) && flows->now - flow->last_byte >= flows->options->close_deadline) {
		close_over(flows, flow);
		return;
	}
	if (is_idle(flows, flow)) {
		enter(flows, flow, end(END_IDLE_DEADLINE));
		return;
	}
	if (is_finished(flows, flow)) {
		enter(flows, flow, end(END_DETACHED));
		return;
	}
	if (is_undecided((enum flow_state)flow->state))
		flow->client.is_readable |= flow->first_byte > 0; /* the same bytes may be judged differently now */
	if (flow->look_again > 0 && flow->look_again <= flows->now) {
		flow->look_again = 0;
		wake(&flow->client);
		wake(&flow->upstream);
	}
	step(flows, flow);
}

void flows_serve_due(struct flows *flows)
{
	struct timer *timer;
	while ((timer = timers_first(&flows->timers)) && timer->when <= flows->now)
		serve_due(flows, (struct flow *)((char *)timer - offsetof(struct flow, timer)));
}

double flows_next(const struct flows *flows)
{
	const struct timer *timer = timers_first(&flows->timers);
	return timer ? timer->when : 0;
}

/* ---- called by accept.c and thread.c ---- */

static struct flow *flow_new(struct flows *flows, struct container *container, int client)
{
	struct flow *flow = timers_reserve(&flows->timers, flows->timers.count + 1) ? calloc(1, sizeof *flow) : NULL;
	if (!flow)
		return NULL;
	flow->container = container;
	flow->share = &container->shares[flows->thread];
	flow->client.fd = client;
	flow->upstream.fd = -1;
	flow->descriptors = FLOW_DESCRIPTORS;
	direction_init(&flow->sent, ALLOW_ALL);
	direction_init(&flow->received, ALLOW_ALL);
	flow->number = atomic_fetch_add(flows->numbers, 1) + 1;
	flow->steps.accepted = flow->last_byte = flows->now;
	atomic_fetch_add(&container->openings, 1);
	COUNT(flows, flow, accepted, 1);
	COUNT(flows, flow, flows, 1);
	enlist(flow, &flow->share->flows);
	return flow;
}

/* Sets the name for which the container's DNS returned the destination. A synthetic address stays with its name until
 * the flow ends. Returns 0 if memory is short. */
static int set_name(struct flow *flow)
{
	struct subject *subject = &flow->subject;
	pthread_mutex_lock(&flow->container->lock);
	struct name *name = names_by_address(flow->container->names, subject->to.address);
	if (name) {
		subject->name = strdup(name->text);
		subject->is_synthetic = subject->name && name_owns(name, subject->to.address);
		name->flows += subject->is_synthetic;
	}
	pthread_mutex_unlock(&flow->container->lock);
	return !name || subject->name;
}

static int watch_client(const struct flows *flows, struct flow *flow)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.u64 = (uint64_t)(uintptr_t)flow};
	return epoll_ctl(flows->epoll, EPOLL_CTL_ADD, flow->client.fd, &event);
}

int flow_begin(struct flows *flows, struct container *container, int client, const struct endpoint *from,
               const struct endpoint *to)
{
	struct flow *flow = flow_new(flows, container, client);
	if (!flow)
		return 0;
	flow->from = *from;
	flow->subject.to = *to;
	const struct table *table = share_table(flow->share);
	flow->published = flow->share->published;
	if (!table) {
		enter(flows, flow, end(END_REFUSED));
	} else if (!set_name(flow) || watch_client(flows, flow) < 0) {
		enter(flows, flow, end(END_NO_RESOURCES));
	} else {
		subject_decide(&flow->subject, table->blob, PROTOCOL_NONE, flow->subject.name);
		if (to->port == DNS_PORT) {
			flow->subject.decision.verdict = VERDICT_HANDLE;
			flow->subject.decision.rule = NO_RULE;
			enter(flows, flow, go(FLOW_SERVED));
		}
		step(flows, flow);
	}
	return 1;
}

static void hear_upstream(struct flow *flow, uint32_t events)
{
	flow->upstream.is_readable |= (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
	flow->upstream.has_closed |= (events & (EPOLLRDHUP | EPOLLHUP)) != 0;
	/* All attempts share a cookie: the error can be a failed attempt's, after another one became the upstream socket. */
	if ((events & EPOLLERR) && is_connected((enum flow_state)flow->state))
		flow->is_broken |= (uint8_t)is_failed(flow->upstream.fd);
}

static void hear_client(struct flow *flow, uint32_t events)
{
	flow->client.is_readable |= (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
	flow->client.has_closed |= (events & (EPOLLRDHUP | EPOLLHUP)) != 0;
	flow->is_broken |= (events & EPOLLERR) != 0;
}

void flow_event(struct flows *flows, uint64_t cookie, uint32_t events)
{
	struct flow *flow = (struct flow *)(uintptr_t)(cookie & ~(uint64_t)COOKIE_UPSTREAM);
	if (is_over(flow))
		return;
	if (cookie & COOKIE_UPSTREAM)
		hear_upstream(flow, events);
	else
		hear_client(flow, events);
	if (flow->is_broken && !is_connected((enum flow_state)flow->state))
		enter(flows, flow, end(END_RESET));
	else if (flow->state != FLOW_OPENING || flow->client.is_readable)
		step(flows, flow); /* skipped for an opening that is only writable, as every new socket is: no byte has arrived */
}

static void step_all(struct flows *flows, struct flow *flow)
{
	for (struct flow *next; flow; flow = next) {
		next = flow->next;
		step(flows, flow);
	}
}

static void end_all(struct flows *flows, struct flow *flow)
{
	for (struct flow *next; flow; flow = next) {
		next = flow->next;
		enter(flows, flow, end(END_DETACHED));
	}
}

void flows_hear(struct flows *flows, struct share *share, uint32_t news)
{
	if (news & NEWS_FINISH)
		share->finishing = flows->now;
	if (news & NEWS_GONE) {
		end_all(flows, share->flows);
		end_all(flows, share->resolving);
		return;
	}
	step_all(flows, share->resolving);
	if (news & (NEWS_POLICY | NEWS_FINISH))
		step_all(flows, share->flows);
}

void flows_serve_ready(struct flows *flows)
{
	struct flow *flow = flows->ready;
	flows->ready = NULL;
	while (flow) {
		struct flow *next = flow->next_ready;
		flow->is_ready = 0;
		step(flows, flow);
		flow = next;
	}
}

void flows_serve_nudged(struct flows *flows)
{
	for (uint64_t cookie; (cookie = ports_nudged(flows->ports, &flows->nudges));)
		flow_event(flows, cookie, 0);
}

/* An ended flow that is still in the list of ready flows is freed in the next turn. */
void flows_bury(struct flows *flows)
{
	for (struct flow **link = &flows->dead; *link;) {
		struct flow *flow = *link;
		if (flow->is_ready) {
			link = &flow->next;
			continue;
		}
		*link = flow->next;
		container_release(flow->container);
		subject_free(&flow->subject);
		free(flow);
	}
}

void flows_close(struct flows *flows)
{
	struct timer *timer;
	while ((timer = timers_first(&flows->timers)))
		enter(flows, (struct flow *)((char *)timer - offsetof(struct flow, timer)), end(END_DETACHED));
	flows_serve_ready(flows); /* empties the list of ready flows: flows_bury() frees no flow in it */
	flows_bury(flows);
	timers_free(&flows->timers);
}
