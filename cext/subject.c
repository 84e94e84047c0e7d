/* SPDX-License-Identifier: Apache-2.0
 *
 * Decisions on a flow's subject. Owns its host and name; subject.h names the callers.
 */
#include <stdlib.h>
#include <string.h>

#include "subject.h"

static struct decision decide(const void *table, uint32_t protocol, const char *host, const struct endpoint *to)
{
	return policy_decide(table, protocol, host, host ? (uint32_t)strlen(host) : 0, to);
}

void subject_free(struct subject *subject)
{
	free(subject->host);
	free(subject->name);
	subject->host = subject->name = NULL;
}

int subject_set_host(struct subject *subject, const char *host)
{
	if (subject->host && host && strcmp(subject->host, host) == 0)
		return 1;
	free(subject->host);
	subject->host = host ? strdup(host) : NULL;
	return !host || subject->host;
}

/* Returns the decision at `to` by host. If that is SPLICE and the destination is synthetic, the decision by its name
 * must be SPLICE too, or is returned instead. */
static struct decision decide_by_both(const struct subject *subject, const void *table, uint32_t protocol, const char *host,
                                      const struct endpoint *to)
{
	struct decision decision = decide(table, protocol, host, to);
	if (decision.verdict != VERDICT_SPLICE || !subject->is_synthetic)
		return decision;
	struct decision by_name = decide(table, protocol, subject->name, to);
	return by_name.verdict == VERDICT_SPLICE ? decision : by_name;
}

void subject_decide(struct subject *subject, const void *table, uint32_t protocol, const char *host)
{
	subject->protocol = (uint8_t)protocol;
	subject->decision = decide_by_both(subject, table, protocol, host, &subject->to);
	if (subject->decision.verdict != VERDICT_SPLICE || !subject->reached.port)
		return;
	if (memcmp(subject->reached.address, subject->to.address, 16) == 0)
		return;
	struct decision there = decide_by_both(subject, table, protocol, host, &subject->reached);
	if (!policy_same(&there, &subject->decision))
		subject->decision = there;
}

static int may_rule(const void *table, const char *host, const struct endpoint *to)
{
	return policy_may_rule(table, host, host ? (uint32_t)strlen(host) : 0, to);
}

int subject_agrees(const struct subject *subject, const void *table, const struct endpoint *candidate)
{
	const char *host = subject->protocol == PROTOCOL_NONE ? subject->name : subject->host;
	struct decision there = decide_by_both(subject, table, subject->protocol, host, candidate);
	return policy_same(&there, &subject->decision) && !(subject->is_in_doubt && may_rule(table, NULL, candidate));
}

int subject_reaches_silently(const struct subject *subject, const void *table)
{
	struct subject silent = *subject;
	subject_decide(&silent, table, PROTOCOL_NONE, subject->name);
	return silent.decision.verdict == VERDICT_SPLICE;
}

int subject_is_streamed(struct subject *subject, const void *table)
{
	struct decision spoken = decide(table, PROTOCOL_HTTP, subject->name, &subject->to);
	struct decision silent = decide(table, PROTOCOL_NONE, subject->name, &subject->to);
	if (silent.verdict != VERDICT_HANDLE || !policy_same(&silent, &spoken))
		return 0;
	subject_decide(subject, table, PROTOCOL_NONE, subject->name);
	return 1;
}

int subject_may_be_handled(const struct subject *subject, const void *table)
{
	return decide(table, PROTOCOL_HTTP, subject->name, &subject->to).verdict == VERDICT_HANDLE;
}

int subject_is_ruled(const struct subject *subject, const void *table)
{
	return policy_names_host(table, subject->name, subject->name ? (uint32_t)strlen(subject->name) : 0, &subject->to) ||
	       policy_standing(table, &subject->to) == STANDING_RULED;
}

int subject_says_no_name(const struct subject *subject, const void *table)
{
	char host[HOST_MAX + 1];
	struct endpoint said = {.port = subject->to.port};
	uint32_t length = subject->host ? host_canonical(subject->host, (uint32_t)strlen(subject->host), host) : 0;
	if (!length)
		return !subject->is_synthetic && policy_standing(table, &subject->to) == STANDING_RULED;
	return host_address(host, length, said.address) && policy_standing(table, &said) == STANDING_RULED;
}

int subject_may_reach_ruled(const struct subject *subject, const void *table)
{
	return may_rule(table, subject->name, &subject->to) || may_rule(table, subject->host, NULL) ||
	       (subject->reached.port && may_rule(table, NULL, &subject->reached));
}
