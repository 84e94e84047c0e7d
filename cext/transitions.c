/* SPDX-License-Identifier: Apache-2.0
 *
 * The states of a flow. Owns nothing; transitions.h names the callers.
 */
#include <stdint.h>

#include "transitions.h"

#define TO(state) (1u << FLOW_##state)
#define TO_END (TO(SERVED) | TO(ENDED))

/* The legal transitions. A flow that isn't connected yet may return to OPENING, because a new policy judges it
 * again. One that was connected before its client spoke may be connected again, by the host that the client says. */
static const uint32_t LEGAL[FLOW_STATES] = {
	[FLOW_OPENING] = TO(EARLY_RESOLVING) | TO(RESOLVING) | TO_END,
	[FLOW_EARLY_RESOLVING] = TO(OPENING) | TO(EARLY_DIALLING) | TO(UNREACHABLE) | TO(RESOLVING) | TO_END,
	[FLOW_EARLY_DIALLING] = TO(OPENING) | TO(GREETING) | TO(UNREACHABLE) | TO(RESOLVING) | TO_END,
	[FLOW_GREETING] = TO(RESOLVING) | TO(FOLLOWING) | TO(UNFRAMED) | TO(SPLICING) | TO_END,
	[FLOW_UNREACHABLE] = TO(OPENING) | TO_END,
	[FLOW_RESOLVING] = TO(OPENING) | TO(DIALLING) | TO_END,
	[FLOW_DIALLING] = TO(OPENING) | TO(FOLLOWING) | TO(UNFRAMED) | TO(SPLICING) | TO_END,
	[FLOW_FOLLOWING] = TO(UNFRAMED) | TO(SPLICING) | TO_END,
	[FLOW_UNFRAMED] = TO(ENDED),
	[FLOW_SPLICING] = TO(UNFRAMED) | TO(ENDED),
};

int transition_is_legal(enum flow_state from, enum flow_state to)
{
	return (LEGAL[from] >> to) & 1;
}

int is_undecided(enum flow_state state)
{
	return state <= FLOW_UNREACHABLE;
}

int is_resolving(enum flow_state state)
{
	return state == FLOW_EARLY_RESOLVING || state == FLOW_RESOLVING;
}

int is_dialling(enum flow_state state)
{
	return state == FLOW_EARLY_DIALLING || state == FLOW_DIALLING;
}

int is_connected(enum flow_state state)
{
	return state == FLOW_GREETING || state == FLOW_FOLLOWING || state == FLOW_UNFRAMED || state == FLOW_SPLICING;
}
