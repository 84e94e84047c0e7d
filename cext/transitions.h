/* The states of a flow, and the legal transitions between them. Pure. Called by flow.c and the steps. */
#ifndef PYINTERCEPTOR_TRANSITIONS_H
#define PYINTERCEPTOR_TRANSITIONS_H

/* The client's first bytes decide a flow; until then it counts as an opening. EARLY: dialled before the first bytes
 * have decided, because the server may speak first. */
enum flow_state {
	FLOW_OPENING,         /* waits for the client's first bytes; nothing is dialled */
	FLOW_EARLY_RESOLVING, /* waits for addresses */
	FLOW_EARLY_DIALLING,
	FLOW_GREETING,        /* connected: the server's bytes pass, the client's bytes wait for the verdict */
	FLOW_UNREACHABLE,     /* no server could be connected: waits for the client's first bytes, as Python answers HTTP */
	FLOW_RESOLVING,       /* decided; waits for addresses */
	FLOW_DIALLING,
	FLOW_FOLLOWING,       /* plain HTTP, parsed message by message */
	FLOW_UNFRAMED,        /* HTTP passes unframed: beside rules, it is watched for requests to a proxy */
	FLOW_SPLICING,        /* other protocols pass unparsed; opaque ones are watched, as long as they could be HTTP */
	FLOW_SERVED,          /* Python owns the client's socket */
	FLOW_ENDED,
	FLOW_STATES
};

/* Whether a flow may go from one state to the other. */
int transition_is_legal(enum flow_state from, enum flow_state to);

int is_undecided(enum flow_state state);
int is_resolving(enum flow_state state);
int is_dialling(enum flow_state state);
int is_connected(enum flow_state state);

#endif
