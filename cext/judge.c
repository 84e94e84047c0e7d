/* SPDX-License-Identifier: Apache-2.0
 *
 * What a flow's first bytes ask for, and what the policy says of it. Called by the flow's thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "flow.h"

void decide(struct flow *flow, const struct table *table, uint32_t protocol, const char *host)
{
	uint32_t length = host ? (uint32_t)strlen(host) : 0;
	flow->protocol = (uint8_t)protocol;
	flow->decision = policy_decide(table->blob, protocol, host, length, &flow->to);
	/* A synthetic address is a name's alone. Who dials it and then speaks of another host would reach the first one's
	 * server under the second one's verdict. */
	if (flow->decision.verdict != VERDICT_SPLICE || !flow->is_synthetic)
		return;
	struct decision by_name = policy_decide(table->blob, protocol, flow->name, (uint32_t)strlen(flow->name), &flow->to);
	if (by_name.verdict != VERDICT_SPLICE)
		flow->decision = by_name;
}

/* HTTP that passes is followed. What can't be (or was begun by the server's own words) is Python's where another of its
 * requests could be decided differently, and opaque where none could. */
static void judged_http(struct thread *thread, struct flow *flow, int differs, const struct opening *opening)
{
	int has_begun = flow->received.moved > 0, passes = flow->decision.verdict == VERDICT_SPLICE;
	if (!passes || (differs && (opening->ambiguous || has_begun))) {
		hand_off(thread, flow);
		return;
	}
	if (!opening->ambiguous && !has_begun) {
		struct frame first;
		struct head head = {0};
		frame_request(&head, thread->buffer, opening->head_length, &first);
		follow_begin(flow, &first);
	}
	if (flow->stage == STAGE_OPENING)
		begin_dial(thread, flow);
}

int may_reach_silently(struct flow *flow)
{
	struct table *table = table_of(flow->container);
	if (table)
		decide(flow, table, PROTOCOL_NONE, flow->name);
	table_release(table);
	return table && flow->decision.verdict == VERDICT_SPLICE;
}

/* Opaque words that came first, to a host that a rule names: a server that speaks before it has heard them isn't one of HTTP, as
 * SSH's isn't. It is dialled, they are kept from it, and it is given until the opening's deadline. */
static int is_kept_back(struct thread *thread, struct flow *flow)
{
	if (flow->received.moved || thread->now - flow->first_byte > thread->relay->options.opening_deadline)
		return 0;
	struct decision refusal = flow->decision;
	int may_pass = may_reach_silently(flow);
	flow->decision = refusal;
	return may_pass;
}

static void judged(struct thread *thread, struct flow *flow, const struct table *table, const struct opening *opening)
{
	int differs = policy_differs(table->blob), is_answer = opening->protocol == PROTOCOL_OPAQUE && flow->received.moved;
	if (opening->host_length) {
		free(flow->host);
		flow->host = strdup(opening->host);
	}
	decide(flow, table, is_answer ? PROTOCOL_NONE : opening->protocol, flow->host);
	if (opening->protocol == PROTOCOL_OPAQUE && flow->decision.verdict == VERDICT_REFUSE && !flow->has_failed &&
	    is_kept_back(thread, flow)) {
		if (flow->stage == STAGE_OPENING)
			begin_dial(thread, flow);
		return;
	}
	flow->protocol = (uint8_t)opening->protocol;
	/* Whose requests HTTP/2 without TLS carries can't be told from its preface: where rules could tell them apart, it
	 * must not walk round them. */
	if (opening->protocol == PROTOCOL_HTTP2 && differs)
		flow->decision.verdict = VERDICT_REFUSE;
	flow->is_judged = 1;
	flow_decided(flow);
	if (opening->protocol == PROTOCOL_HTTP)
		judged_http(thread, flow, differs, opening);
	else if (flow->decision.verdict != VERDICT_SPLICE)
		flow_end(thread, flow, END_REFUSED);
	else if (flow->has_failed)
		flow_end(thread, flow, flow->cause);
	else if (flow->stage == STAGE_OPENING)
		begin_dial(thread, flow);
}

/* The last word on what isn't complete: HTTP and TLS say what they are, the rest is opaque, unless its next bytes could
 * still make it HTTP and matter. */
static void judge_incomplete(struct thread *thread, struct flow *flow, const struct table *table, const struct opening *opening,
                             ssize_t got)
{
	int differs = policy_differs(table->blob), has_closed = got == 0 || flow->client_has_closed;
	const struct relay_options *options = &thread->relay->options;
	double patience = differs ? options->opening_deadline : options->sniff_wait;
	if (!has_closed && thread->now - flow->first_byte <= patience)
		return;
	if (opening->protocol == PROTOCOL_OPAQUE && differs && !has_closed)
		flow_end(thread, flow, END_OPENING_DEADLINE);
	else
		judged(thread, flow, table, opening);
}

/* Peeks at the client's first bytes; nothing is consumed. */
void judge(struct thread *thread, struct flow *flow)
{
	struct opening opening;
	ssize_t got = recv(flow->client, thread->buffer, OPENING_MAX, MSG_PEEK);
	if (got < 0 && errno == EAGAIN)
		return;
	struct table *table = table_of(flow->container);
	if (got < 0 || !table) {
		flow_end(thread, flow, got < 0 ? END_RESET : END_REFUSED);
		table_release(table);
		return;
	}
	if (!flow->first_byte)
		flow->first_byte = thread->now;
	if (sniff(&flow->opening, thread->buffer, (uint32_t)got, &opening) == READING_MORE)
		judge_incomplete(thread, flow, table, &opening, got);
	else
		judged(thread, flow, table, &opening);
	table_release(table);
}
