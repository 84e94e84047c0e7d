/* SPDX-License-Identifier: Apache-2.0
 *
 * Judges a flow's first bytes.
 */
#include <string.h>

#include "judge.h"

/* HTTP that can't be followed, or was begun by the server's own words, is Python's where another of its requests could be decided
 * differently, and passes unframed where none could. */
static enum judged judge_http(const struct subject *subject, const void *table, const struct opening *opening,
                              struct first_bytes *look)
{
	struct head head = {0};
	if (subject->decision.verdict != VERDICT_SPLICE)
		return JUDGED_SERVE;
	if (opening->ambiguous || look->has_greeted)
		return policy_differs(table) ? JUDGED_SERVE : JUDGED_UNFRAMED;
	frame_request(&head, look->bytes, opening->head_length, &look->first);
	return JUDGED_FOLLOW;
}

/* Opaque bytes that came first, to a host that a rule names: a server that speaks before it has heard them isn't one of HTTP, as
 * SSH's isn't. It is dialled, they are kept from it, and it has until the opening's deadline. */
static int is_kept_back(const struct subject *subject, const void *table, const struct relay_options *options,
                        const struct first_bytes *look)
{
	return subject->decision.verdict == VERDICT_REFUSE && !look->is_unreachable && !look->has_greeted &&
	       look->waited < options->opening_deadline && subject_reaches_silently(subject, table);
}

static enum judged judge_opening(struct subject *subject, const void *table, const struct relay_options *options,
                                 const struct opening *opening, struct first_bytes *look)
{
	int is_opaque = opening->protocol == PROTOCOL_OPAQUE, is_answer = is_opaque && look->has_greeted;
	if (opening->host_length && !subject_set_host(subject, opening->host))
		return JUDGED_NO_MEMORY;
	look->protocol = opening->protocol;
	subject_decide(subject, table, is_answer ? PROTOCOL_NONE : opening->protocol, subject->host);
	if (opening->protocol == PROTOCOL_HTTP)
		return judge_http(subject, table, opening, look);
	if (is_opaque && is_kept_back(subject, table, options, look))
		return JUDGED_KEEP;
	/* The hosts of requests in HTTP/2 without TLS aren't known from its preface: where rules could tell them apart, it is
	 * refused. */
	if (opening->protocol == PROTOCOL_HTTP2 && policy_differs(table))
		subject->decision.verdict = VERDICT_REFUSE;
	return subject->decision.verdict == VERDICT_SPLICE ? JUDGED_SPLICE : JUDGED_REFUSE;
}

/* An opening that isn't complete is judged as it is when its time is over: HTTP and TLS are known by then, the rest is opaque, and
 * late where its next bytes could still make it HTTP and a rule could matter. */
static enum judged judge_incomplete(struct subject *subject, const void *table, const struct relay_options *options,
                                    const struct opening *opening, struct first_bytes *look)
{
	int differs = policy_differs(table);
	if (!look->is_end && look->waited < (differs ? options->opening_deadline : options->sniff_wait))
		return JUDGED_MORE;
	if (opening->protocol == PROTOCOL_OPAQUE && differs && !look->is_end)
		return JUDGED_LATE;
	return judge_opening(subject, table, options, opening, look);
}

enum judged judge(struct subject *subject, struct sniffing *so_far, const void *table, const struct relay_options *options,
                  struct first_bytes *look)
{
	struct opening opening;
	if (sniff(so_far, look->bytes, look->length, &opening) == READING_MORE)
		return judge_incomplete(subject, table, options, &opening, look);
	return judge_opening(subject, table, options, &opening, look);
}
