/* The relay: owns every captured flow from accept to its end, or until Python takes it.
 *
 * It has threads and epolls of its own, never holds the GIL and calls no Python API. All functions here may be
 * called from any Python thread; none blocks for longer than a lock is held, which is microseconds, except
 * relay_close(). Its threads run in the network namespace of the thread that called relay_open(): upstream sockets
 * are opened there.
 */
#ifndef PYINTERCEPTOR_RELAY_H
#define PYINTERCEPTOR_RELAY_H

#include "policy.h"
#include "records.h"

struct relay;                 /* opaque */
struct relay_pump;            /* opaque */

/* Zero fields take their defaults in relay_open(). Deadlines are in seconds. */
struct relay_options {
	uint32_t threads;             /* default: one a core, 2 at most */
	uint32_t flows;               /* all together; default: from RLIMIT_NOFILE, leaving a quarter of it to Python */
	double opening_deadline;      /* to judge a client that speaks first; default 10 */
	double sniff_wait;            /* a waiting port waits so long for the client before it is taken for server-first; default 0.5 */
	double idle_deadline;         /* without a byte either way; default 3600 */
	double dial_deadline;         /* for all attempts together; default 15 */
	double linger_deadline;       /* after one half closed with no byte; default 120 */
};

#define BUDGET_FLOWS 4000
#define BUDGET_OPENINGS 512
#define BUDGET_HANDOFFS 1024
#define BUDGET_PIPES 64

/* Of one container. Zero fields take the defaults above in relay_add_container(). */
struct relay_budget {
	uint32_t flows;
	uint32_t openings;            /* flows that aren't decided yet */
	uint32_t handoffs;            /* flows given to Python and not yet returned */
	uint32_t pipes;
};

/* Events that wait for relay_take(). A handoff that finds no room ends its flow with END_NO_RESOURCES; a question
 * for a name is asked again later. */
#define EVENTS_MAX 4096

enum event_kind { EVENT_HANDOFF = 1, EVENT_RESOLVE = 2 };
enum end_cause { END_DONE = 0, END_RESET = 1, END_REFUSED = 2, END_DIAL_FAILED = 3, END_DIAL_GUARD = 4, END_OPENING_DEADLINE = 5,
                 END_IDLE_DEADLINE = 6, END_BUDGET = 7, END_DETACHED = 8, END_NAME_UNKNOWN = 9, END_NO_RESOURCES = 10 };

struct relay_event {
	uint32_t kind;                /* enum event_kind */
	int32_t fd;                   /* HANDOFF: the client's socket, non-blocking, nothing consumed;
	                                 the caller of relay_take() owns it. Else -1 */
	uint64_t flow;                /* a number never used twice */
	uint32_t container;           /* its number: relay_add_container() */
	uint32_t protocol;            /* enum protocol */
	struct decision decision;
	uint32_t cause;               /* enum end_cause; HANDOFF: of a failure before, or END_DONE */
	struct endpoint client;
	struct endpoint destination;  /* as the container dialled it */
	uint32_t is_synthetic;        /* HANDOFF: the destination is held, until relay_returned */
	char host[HOST_MAX + 1];      /* RESOLVE: the name to answer for with relay_publish_name() or relay_name_failed(); HANDOFF: the
	                                 host that the flow asks for, as far as it is known */
};

struct relay_counters {           /* of one container, or of all together */
	uint64_t accepted, spliced, handled, refused, failed_dials, over_budget;
	uint64_t reset;               /* by a side, or with their container */
	uint64_t timed_out;           /* without a byte for too long */
	uint64_t no_resources;        /* for want of memory or descriptors; of all together: connections whose owner is unknown, too */
	uint64_t sent, received;
	uint64_t flows;               /* open now */
};

#define CAPTURES_MAX 8

/* Returns NULL with errno. */
struct relay *relay_open(const struct relay_options *options);

/* The options in effect, defaults filled in. */
struct relay_options relay_options_of(const struct relay *relay);

/* Accepts connections from the listening socket of one more capture (borrowed; non-blocking, IP_PKTINFO and
 * IPV6_RECVPKTINFO set). Returns the capture's number, or -errno: -ENOSPC above CAPTURES_MAX. */
int relay_listen(struct relay *relay, int listener);

/* Readable (eventfd) while events wait. */
int relay_event_fd(struct relay *relay);

/* Takes up to `count` events; returns how many. */
uint32_t relay_take(struct relay *relay, struct relay_event *out, uint32_t count);

/* A container's tie to a capture. Interfaces of different captures may have the same index. */
struct attachment {
	uint32_t capture;             /* from relay_listen() */
	uint32_t interface;           /* ifindex that its connections come in on */
	uint8_t v4[16], v6[16];       /* v4-mapped, and v6: a flow from another peer address is reset */
};

/* Call it before the interface exists. `container` is a number of the caller's that no other container has or had;
 * not 0. Until a policy is published its flows are refused. 0 or -errno: -EEXIST if the number or the interface is
 * taken. */
int relay_add_container(struct relay *relay, uint32_t container, const struct attachment *attachment,
                        const struct relay_budget *budget);

/* Replaces the container's table atomically; the blob is copied. -EINVAL if policy_check fails. Every open flow is
 * decided anew by it; one that it refuses is reset, but for an exchange in progress. */
int relay_publish_policy(struct relay *relay, uint32_t container, const void *table, uint32_t size);

/* Begins to reset every flow of the container: its count of open flows tells when all are closed. What it opens
 * meanwhile is reset as well, at the latest when it is removed. */
int relay_end_flows(struct relay *relay, uint32_t container);

/* Resets every flow of the container and forgets it. */
int relay_remove_container(struct relay *relay, uint32_t container);

/* The handed-off flow was closed by Python: frees its budget and its synthetic destination (NULL: it has none);
 * `sent`/`received` are added to the counters. */
void relay_returned(struct relay *relay, uint32_t container, const uint8_t *synthetic, uint64_t sent, uint64_t received);

/* Which name do these addresses stand for? `synthetic` (2 x 16 bytes: v4-mapped and v6) may be NULL; `addresses` are
 * the real ones (count 0 with synthetic: not resolved yet -> EVENT_RESOLVE when a flow needs to dial it). seconds:
 * until they expire. Wakes flows waiting for this name. At most 4 096 names a container, then -ENOSPC for synthetic
 * ones, oldest real one replaced. Synthetic addresses pass from their last name to this one, or -EBUSY while flows
 * are open to them. */
int relay_publish_name(struct relay *relay, uint32_t container, const char *name, const uint8_t *synthetic,
                       const uint8_t *addresses, uint32_t count, double seconds);

/* Resolving failed: flows waiting for it are reset. */
void relay_name_failed(struct relay *relay, uint32_t container, const char *name);

enum permission { DIAL_REFUSED = 0, DIAL_PERMITTED = 1, DIAL_UNREACHABLE = 2 };

/* The dial guard, both halves: guard.h with the container's table (container 0: none; `local` 1: local
 * addresses are allowed) and the host's own route: only unicast routes, so none of the host's own addresses. Call it
 * in the namespace that dials. */
enum permission relay_may_dial(struct relay *relay, uint32_t container, const struct endpoint *to, int local);

/* Borrows two connected, non-blocking sockets and moves up to `limit` bytes from one to the other, until
 * relay_pump_finish(), which must come before relay_close(). Uses the container's budget of pipes. NULL with errno. */
struct relay_pump *relay_pump_start(struct relay *relay, uint32_t container, int from, int to, uint64_t limit);

/* Readable (eventfd) when the limit is reached, the source has ended or a side has failed. */
int relay_pump_fd(struct relay_pump *pump);

/* Bytes that have reached the sink so far. */
uint64_t relay_pump_moved(struct relay_pump *pump);

/* Stops the pump at any time and returns the count of bytes that reached the sink. `error`: errno of the side that
 * failed, else 0. Bytes that were read and didn't reach the sink are lost: then the sink can't be used any more. */
uint64_t relay_pump_finish(struct relay_pump *pump, int *error);

void relay_count(struct relay *relay, uint32_t container, struct relay_counters *out);

/* Stops the threads, resets every flow (undelivered handoffs too), frees all. */
void relay_close(struct relay *relay);

#endif
