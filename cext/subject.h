/* A flow's subject: the destination, host and protocol by which the policy decides, and the decision.
 *
 * Pure: no I/O, no locks. Owns `host` and `name`. Called by judge, connect, steps and flow.
 */
#ifndef PYINTERCEPTOR_SUBJECT_H
#define PYINTERCEPTOR_SUBJECT_H

#include "policy.h"

struct subject {
	struct endpoint to;       /* as the container dialled it */
	struct endpoint reached;  /* the address of the connected upstream socket; port 0: not connected */
	char *host;               /* as the opening or the request wrote it; NULL: unknown */
	char *name;               /* the name for which the container's DNS returned `to`; NULL: none */
	uint8_t is_synthetic;     /* 1: `to` is a synthetic address of `name` */
	uint8_t protocol;         /* enum protocol, of the last decision */
	uint8_t is_in_doubt;      /* 1: it passes though it could be read as another request: it may not reach a ruled host */
	uint8_t reserved;
	struct decision decision;
};

/* Frees host and name. */
void subject_free(struct subject *subject);

/* Copies the host; NULL for unknown. Returns 1, or 0 if memory is short. */
int subject_set_host(struct subject *subject, const char *host);

/* Decides by protocol and host (NULL: unknown). A client could dial host A's synthetic address but send `Host: B`: A's
 * rule is checked too, or A's server is reached on B's verdict. If the upstream socket is connected to another address
 * whose decision differs, that decision is used. */
void subject_decide(struct subject *subject, const void *table, uint32_t protocol, const char *host);

/* Returns 1 if the subject would get the same verdict and rule at this address. A subject in doubt doesn't agree with an
 * address of a ruled host. */
int subject_agrees(const struct subject *subject, const void *table, const struct endpoint *candidate);

/* Returns 1 if a client that sends nothing may reach the destination. Doesn't change the decision. */
int subject_reaches_silently(const struct subject *subject, const void *table);

/* Returns 1 if a target takes the flow as a stream before its client has spoken, and no earlier row would give a
 * request on it to another target; then decides it so. */
int subject_is_streamed(struct subject *subject, const void *table);

/* Returns 1 if a handler would serve the subject's name or destination, should the client speak HTTP. */
int subject_may_be_handled(const struct subject *subject, const void *table);

/* Returns 1 if the destination is a ruled host's, by its name or as a real address: a rule for its name or address, not
 * a catch-all rule, gives HTTP to a handler, or it is a real address of a host that a rule names exactly. */
int subject_is_ruled(const struct subject *subject, const void *table);

/* Returns 1 if the client's host leads to a real address of a host that a rule names exactly, under no name: it is
 * unknown, and the destination is such an address; or it is such an address itself, as a proxy could be asked for. */
int subject_says_no_name(const struct subject *subject, const void *table);

/* Returns 1 if bytes that could be read in two ways could reach a host with a rule: at the destination, at the connected
 * address, by the destination's name or by the subject's host. Everywhere else such bytes pass. */
int subject_may_reach_ruled(const struct subject *subject, const void *table);

#endif
