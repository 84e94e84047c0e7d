/* SPDX-License-Identifier: Apache-2.0
 *
 * Decides a flow or request: one loop over a table's stages. Owns nothing; policy.h names the callers.
 */
#include <stddef.h>
#include <string.h>

#include "policy.h"
#include "rows.h"

static const struct policy_stage *stages_of(const struct policy_header *header)
{
	return (const void *)((const uint8_t *)header + header->stages.offset);
}

static const struct policy_rows *rows_of(const struct policy_header *header, const struct policy_stage *stage)
{
	return (const void *)((const uint8_t *)header + stage->rows);
}

int policy_waits(const void *table, uint16_t port)
{
	const struct policy_header *header = table;
	const uint16_t *waits = (const void *)((const uint8_t *)table + header->waits.offset);
	for (uint32_t i = 0; i < header->waits.count; i++)
		if (waits[i] == port)
			return 1;
	return 0;
}

/* Sets the verdict HANDLE if the row has a target that takes this protocol. Otherwise the verdict stays REFUSE. */
static void ask_target(struct decision *decision, const struct policy_header *header, uint32_t target, uint32_t protocol)
{
	const uint32_t *takes = (const void *)((const uint8_t *)header + header->targets.offset);
	decision->target = target;
	if (target != NO_TARGET && (takes[target] == TAKES_STREAM || protocol == PROTOCOL_HTTP))
		decision->verdict = VERDICT_HANDLE;
	else if (target != NO_TARGET)
		decision->reason = REASON_NOT_HTTP;
}

struct decision policy_decide(const void *table, uint32_t protocol, const char *host, uint32_t host_length,
                              const struct endpoint *destination)
{
	const struct policy_header *header = table;
	const struct policy_stage *stages = stages_of(header);
	struct decision decision = {VERDICT_REFUSE, NO_RULE,         header->generation, NO_STAGE,
	                            NO_TARGET,      REASON_NO_STAGE, MATCHED_NOTHING};
	struct question question;
	question_ask(&question, host, host_length, destination);
	if (protocol == PROTOCOL_NONE && destination && policy_waits(table, destination->port))
		protocol = PROTOCOL_OPAQUE;
	question.protocols = protocol <= PROTOCOL_OPAQUE ? (uint16_t)(1 << protocol) : 0;
	for (uint32_t i = 0; i < header->stages.count; i++) {
		struct found found = rows_find(rows_of(header, &stages[i]), &question);
		enum outcome outcome = found.row ? stages[i].on_match : stages[i].on_miss;
		if (outcome == OUTCOME_NEXT)
			continue;
		decision.stage = i;
		decision.reason = found.row ? REASON_MATCH : REASON_MISS;
		decision.rule = found.row ? found.row->rule : NO_RULE;
		decision.matched = found.matched;
		if (outcome == OUTCOME_TARGET)
			ask_target(&decision, header, found.row->target, protocol);
		else if (outcome == OUTCOME_SPLICE)
			decision.verdict = VERDICT_SPLICE;
		return decision;
	}
	return decision;
}

static enum verdict better(enum verdict one, uint32_t outcome)
{
	enum verdict other = outcome == OUTCOME_TARGET   ? VERDICT_HANDLE
	                     : outcome == OUTCOME_SPLICE ? VERDICT_SPLICE
	                                                 : VERDICT_REFUSE;
	return one > other ? one : other;
}

/* The question names no protocol, so `found.row` is always NULL. is_possible and is_certain tell which outcomes can
 * occur. */
enum verdict policy_decide_name(const void *table, const char *host, uint32_t host_length)
{
	const struct policy_header *header = table;
	const struct policy_stage *stages = stages_of(header);
	enum verdict best = VERDICT_REFUSE;
	struct question question;
	question_ask(&question, host, host_length, NULL);
	for (uint32_t i = 0, goes_on = 1; i < header->stages.count && goes_on; i++) {
		struct found found = rows_find(rows_of(header, &stages[i]), &question);
		goes_on = 0;
		if (found.is_possible) {
			goes_on = stages[i].on_match == OUTCOME_NEXT;
			best = better(best, stages[i].on_match);
		}
		if (!found.is_certain) {
			goes_on |= stages[i].on_miss == OUTCOME_NEXT;
			best = better(best, stages[i].on_miss);
		}
	}
	return best;
}

uint32_t policy_list_rows(const void *table, uint32_t stage, const char *host, uint32_t host_length,
                          const struct endpoint *destination, uint32_t *offsets, uint32_t room)
{
	const struct policy_header *header = table;
	struct question question;
	if (stage >= header->stages.count)
		return 0;
	question_ask(&question, host, host_length, destination);
	return rows_list(rows_of(header, &stages_of(header)[stage]), &question, table, offsets, room);
}

int policy_same(const struct decision *one, const struct decision *other)
{
	return one->verdict == other->verdict && one->rule == other->rule;
}

int policy_names_host(const void *table, const char *host, uint32_t host_length, const struct endpoint *destination)
{
	struct decision decision = policy_decide(table, PROTOCOL_HTTP, host, host_length, destination);
	return decision.verdict == VERDICT_HANDLE && decision.matched != MATCHED_ALL;
}

int policy_differs(const void *table)
{
	const struct policy_header *header = table;
	const struct policy_stage *stages = stages_of(header);
	for (uint32_t i = 0; i < header->stages.count; i++) {
		const struct policy_rows *rows = rows_of(header, &stages[i]);
		if (rows->names.count || rows->suffixes.count || rows->prefixes.count || rows->globs.count || rows->networks.count ||
		    rows->all.count)
			return 1;
	}
	return 0;
}

static int is_ruled(const struct policy_header *header, const uint8_t *address)
{
	const uint8_t(*ruled)[16] = (const void *)((const uint8_t *)header + header->ruled.offset);
	uint32_t low = 0, high = header->ruled.count;
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		int order = memcmp(ruled[middle], address, 16);
		if (order == 0)
			return 1;
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return 0;
}

static int is_any_ruled(const struct policy_header *header, const struct question *question)
{
	for (uint32_t i = 0; i < question->address_count; i++)
		if (is_ruled(header, question->addresses[i].bytes))
			return 1;
	return 0;
}

enum standing policy_standing(const void *table, const struct endpoint *to)
{
	const struct policy_header *header = table;
	struct question question;
	if (!policy_differs(table))
		return STANDING_FREE;
	if (!header->is_resolved)
		return STANDING_UNKNOWN;
	if (!header->ruled.count)
		return STANDING_FREE;
	question_ask(&question, NULL, 0, to);
	return is_any_ruled(header, &question) ? STANDING_RULED : STANDING_FREE;
}

int policy_may_rule(const void *table, const char *host, uint32_t host_length, const struct endpoint *destination)
{
	const struct policy_header *header = table;
	const struct policy_stage *stages = stages_of(header);
	struct question question;
	if (!policy_differs(table))
		return 0;
	if (!header->is_resolved)
		return 1;
	question_ask(&question, host, host_length, destination);
	if (is_any_ruled(header, &question))
		return 1;
	for (uint32_t i = 0; i < header->stages.count; i++)
		if (rows_find(rows_of(header, &stages[i]), &question).is_possible)
			return 1;
	return 0;
}
