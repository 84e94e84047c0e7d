/* A flow's subject: the destination, the host and the protocol that the policy decides on, and its decision.
 *
 * Pure: no I/O, no locks. Called by judge, connect and flow.
 */
#ifndef PYINTERCEPTOR_SUBJECT_H
#define PYINTERCEPTOR_SUBJECT_H

#include "policy.h"

struct subject {
	struct endpoint to;       /* as the container dialled it */
	struct endpoint reached;  /* the address behind the connected upstream socket; port 0: none is connected */
	char *host;               /* as the opening or the request names it; NULL: unknown */
	char *name;               /* the name that the container's DNS gave `to` for; NULL: none */
	uint8_t is_synthetic;     /* `to` stands for `name` alone */
	uint8_t protocol;         /* enum protocol: of the last decision */
	uint8_t reserved[2];
	struct decision decision;
};

/* Frees host and name. */
void subject_free(struct subject *subject);

/* Copies the host. Returns 0 without memory. */
int subject_set_host(struct subject *subject, const char *host);

/* Decides by protocol and host (NULL: unknown). A client could dial host A's synthetic address and send `Host: B`: A's rule is
 * checked too. A connected upstream socket must stand at an address with the same decision, or that address' decision holds. */
void subject_decide(struct subject *subject, const void *table, uint32_t protocol, const char *host);

/* 1 if the subject would get its own verdict and rule at this address as well. */
int subject_agrees(const struct subject *subject, const void *table, const struct endpoint *candidate);

/* 1 if a client that says nothing may reach the destination. The decision stays as it is. */
int subject_reaches_silently(const struct subject *subject, const void *table);

/* 1 if a silent client's name or destination would be a handler's, should the client speak HTTP. */
int subject_may_be_handled(const struct subject *subject, const void *table);

/* 1 if the subject's name or destination has a rule of its own. */
int subject_is_ruled(const struct subject *subject, const void *table);

#endif
