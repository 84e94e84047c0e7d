/* SPDX-License-Identifier: Apache-2.0
 *
 * Judges a flow's first bytes. Owns nothing; called by opening.c.
 */
#include <string.h>

#include "judge.h"

/* HTTP can't be followed if its head isn't plain or if the server spoke first. Then it goes to Python if it could reach a
 * host with a rule, and otherwise passes unframed. */
static enum judged judge_http(struct subject *subject, const void *table, const struct relay_options *options,
                              const struct opening *opening, struct first_bytes *look)
{
	struct head head = {0};
	if (subject->decision.verdict != VERDICT_SPLICE)
		return JUDGED_SERVE;
	int may_reach_ruled = subject_may_reach_ruled(subject, table);
	if (subject_says_no_name(subject, table))
		return JUDGED_SERVE;
	if (opening->ambiguous || look->has_greeted) {
		int may_be_forwarded = opening->malformed && frame_is_for_proxy(look->bytes, look->length);
		if (may_reach_ruled || (may_be_forwarded && policy_differs(table)))
			return JUDGED_SERVE;
		subject->is_in_doubt = 1;
		return JUDGED_UNFRAMED;
	}
	frame_request(&head, look->bytes, opening->head_length, &look->first);
	/* A server could take the content for requests, which would bypass a rule: Python sends it on a connection of its own. */
	if (content_is_unusual(&look->first, look->bytes, options->content_methods) && may_reach_ruled)
		return JUDGED_SERVE;
	return JUDGED_FOLLOW;
}

/* Returns 1 if bytes that pass elsewhere are refused where they could reach a host with a rule. TLS says its host, and
 * may not be without one there. The preface of HTTP/2 without TLS doesn't name the hosts of its requests. Opaque bytes
 * may be a request that a lenient server reads and we don't, unless the server has spoken first. */
static int is_refused(const struct subject *subject, const void *table, const struct opening *opening,
                      const struct first_bytes *look)
{
	if (opening->protocol == PROTOCOL_TLS)
		return subject_says_no_name(subject, table);
	return (opening->protocol == PROTOCOL_HTTP2 || !look->has_greeted) && subject_may_reach_ruled(subject, table);
}

/* Returns 1 if opaque bytes that are refused must be held back instead. A server that speaks before it receives them,
 * such as SSH's, isn't an HTTP server: then they may pass. So the server is dialled without them, and has until the
 * opening's deadline to speak. */
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
	subject->is_in_doubt = 0;
	subject_decide(subject, table, is_answer ? PROTOCOL_NONE : opening->protocol, subject->host);
	if (opening->protocol == PROTOCOL_HTTP)
		return judge_http(subject, table, options, opening, look);
	if (subject->decision.verdict == VERDICT_HANDLE) /* a target takes it as a stream */
		return JUDGED_SERVE;
	if (is_refused(subject, table, opening, look))
		subject->decision.verdict = VERDICT_REFUSE;
	if (is_opaque && is_kept_back(subject, table, options, look))
		return JUDGED_KEEP;
	subject->is_in_doubt = opening->protocol == PROTOCOL_HTTP2 || (is_opaque && !is_answer);
	return subject->decision.verdict == VERDICT_SPLICE ? JUDGED_SPLICE : JUDGED_REFUSE;
}

/* Judges an incomplete opening when its time is over, or when the client has closed. HTTP and TLS are recognised by
 * then. Any other opening is opaque, but if it could reach a host with a rule it is late: its next bytes could still make
 * it HTTP. An HTTP head has the longer deadline beside any rule, since its Host field decides. */
static enum judged judge_incomplete(struct subject *subject, const void *table, const struct relay_options *options,
                                    const struct opening *opening, struct first_bytes *look)
{
	int is_opaque = opening->protocol == PROTOCOL_OPAQUE;
	int is_slow = is_opaque ? subject_may_reach_ruled(subject, table) : policy_differs(table);
	if (!look->is_end && look->waited < (is_slow ? options->opening_deadline : options->sniff_wait))
		return JUDGED_MORE;
	if (is_opaque && is_slow && !look->is_end)
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
