/* The relay: owns every captured flow from accept to its end, or until Python takes it.
 *
 * It has threads and epolls of its own, never holds the GIL and calls no Python API. All functions here may be called
 * from any Python thread. None blocks for longer than a lock is held (microseconds), except relay_close() and, if a
 * netlink answer is lost, relay_may_dial(). Its threads run in the network namespace of the thread that called
 * relay_open(), and open upstream sockets there.
 */
#ifndef PYINTERCEPTOR_RELAY_H
#define PYINTERCEPTOR_RELAY_H

#include "content.h"
#include "policy.h"
#include "records.h"

struct relay;                 /* opaque */
struct relay_pump;            /* opaque */
struct port_use;              /* opaque */

/* relay_open() replaces zero fields by their defaults. Deadlines are in seconds. */
struct relay_options {
	uint32_t threads;             /* default: one for each core, at most 2 */
	uint32_t flows;               /* of all containers; default: 3/8 of RLIMIT_NOFILE */
	double opening_deadline;      /* for the client's first bytes to be complete; default 10 */
	double sniff_wait;            /* for a client that is expected to speak first: after this time of silence its
	                                 server is dialled, as if the server spoke first; default 0.5 */
	double idle_deadline;         /* without a byte in either direction; default 3600 */
	double dial_deadline;         /* for resolving and all attempts together; default 15 */
	double linger_deadline;       /* without a byte after one side has closed its half; default 120 */
	double close_deadline;        /* without a byte after a connection's last response, or after a part of one whose end
	                                 is in doubt: then both sides are closed; default 10 */
	double settle_deadline;       /* without a byte after relay_finish_flows(); default 0.5 */
	char content_methods[CONTENT_METHODS_MAX]; /* further methods, separated by commas, whose requests usually have
	                                 content (content.h); NUL-terminated; default: none */
	uint32_t descriptors;         /* of all containers: their flows, pipes, pumps and Python's connections for them;
	                                 default: 3/4 of RLIMIT_NOFILE. The rest is the interceptor's own */
	uint32_t reserve;             /* flows of each container that no other can take, with two descriptors each; default:
	                                 a thousandth of `flows`, at least 1. A container can be added only while a reserve
	                                 is left for it */
	uint32_t ports;               /* local ports for connections to one destination, of all containers together; default:
	                                 the lower three quarters of net.ipv4.ip_local_port_range, which is read again when
	                                 it may have changed. The rest is the host's own */
};

#define BUDGET_FLOWS 4000
#define BUDGET_OPENINGS 512
#define BUDGET_HANDOFFS 1024
#define BUDGET_PIPES 64
#define BUDGET_BUFFERS 33554432
#define BUDGET_SPARE 1024 /* default of `descriptors`: these, and two for each flow */

/* The limits of one container. relay_add_container() replaces zero fields by the defaults above. */
struct relay_budget {
	uint32_t flows;
	uint32_t openings;            /* flows that aren't decided yet */
	uint32_t handoffs;            /* flows that Python has and hasn't returned */
	uint32_t pipes;
	uint32_t descriptors;
	uint32_t names;               /* synthetic ones, and again real ones; default and most: NAMES_MAX */
	uint32_t ports;               /* local ports for connections to one destination (ports.h); default: as many as are
	                                 free besides */
	uint32_t buffers;             /* bytes of its connections' socket buffers, in each direction (buffers.h) */
};

/* The size of the ring of events. If it is full, a flow to be handed off ends with END_NO_RESOURCES, and an
 * EVENT_RESOLVE is posted again later. */
#define EVENTS_MAX 4096

enum event_kind { EVENT_HANDOFF = 1, EVENT_RESOLVE = 2 };
enum end_cause { END_DONE = 0, END_RESET = 1, END_REFUSED = 2, END_DIAL_FAILED = 3, END_DIAL_GUARD = 4, END_OPENING_DEADLINE = 5,
                 END_IDLE_DEADLINE = 6, END_BUDGET = 7, END_DETACHED = 8, END_NAME_UNKNOWN = 9, END_NO_RESOURCES = 10 };

struct relay_event {
	uint32_t kind;                /* enum event_kind */
	int32_t fd;                   /* HANDOFF: the client's socket, non-blocking, its next bytes unread; the caller of
	                                 relay_take() owns it. Otherwise -1 */
	uint64_t flow;                /* the flow's number; never reused */
	uint32_t container;           /* the container's number: relay_add_container() */
	uint32_t protocol;            /* enum protocol */
	struct decision decision;
	uint32_t cause;               /* enum end_cause; HANDOFF: the failure that Python must answer for, or END_DONE */
	struct endpoint client;
	struct endpoint destination;  /* as the container dialled it */
	double began, judged, connected; /* HANDOFF: seconds, CLOCK_MONOTONIC; 0: never */
	uint32_t is_synthetic;        /* HANDOFF: the destination stays with its name until relay_returned() */
	char host[HOST_MAX + 1];      /* RESOLVE: the name to answer for, by relay_publish_name() or relay_name_failed();
	                                 HANDOFF: the host of the flow, or empty if it is unknown */
};

struct relay_counters {           /* of one container, or of all containers together */
	uint64_t accepted, spliced, handled, refused, failed_dials, over_budget;
	uint64_t reset;               /* by the client, by the server, or by the end of their container */
	uint64_t timed_out;           /* by the idle or linger deadline */
	uint64_t no_resources;        /* ended for lack of memory or descriptors; the sum of all containers also counts
	                                 connections whose container is unknown */
	uint64_t sent, received;      /* bytes from and to the container */
	uint64_t flows;               /* open now */
};

#define CAPTURES_MAX 8
#define ATTEMPTS_MAX 3        /* attempts to connect one flow that are open at once */

/* Starts the threads. Returns NULL with errno on failure. relay_close() ends the relay. */
struct relay *relay_open(const struct relay_options *options);

/* Returns the options in effect, with defaults filled in. */
struct relay_options relay_options_of(const struct relay *relay);

/* Accepts connections from the listening socket of another capture. Borrows the socket, which must be non-blocking with
 * IP_PKTINFO and IPV6_RECVPKTINFO set. Returns the capture's number, or -errno: -ENOSPC above CAPTURES_MAX. */
int relay_listen(struct relay *relay, int listener);

/* Returns an eventfd that becomes readable when an event is queued in an empty ring. Borrowed. Read it, then take
 * events until none is left. */
int relay_event_fd(struct relay *relay);

/* Takes up to `count` events. Returns the number taken. */
uint32_t relay_take(struct relay *relay, struct relay_event *out, uint32_t count);

/* A container's attachment to a capture. Interfaces of different captures may have the same index. */
struct attachment {
	uint32_t capture;             /* from relay_listen() */
	uint32_t interface;           /* ifindex on which the container's connections arrive */
	uint8_t v4[16], v6[16];       /* the container's addresses, v4-mapped and v6: a flow from another address is reset */
};

/* Adds a container. Call it before connections can arrive on the interface. The caller chooses the number `container`:
 * not 0, and never used before. Flows are refused until a policy is published. Returns 0 or -errno: -EEXIST if the
 * number or the interface is taken, -EDQUOT if no reserve of flows or descriptors is left. */
int relay_add_container(struct relay *relay, uint32_t container, const struct attachment *attachment,
                        const struct relay_budget *budget);

/* Replaces the container's table atomically; copies the blob. Every open flow is decided anew and reset if the table
 * refuses it, except that an exchange in progress finishes. Returns 0 or -errno: -EINVAL if policy_check() fails,
 * -ENOENT if there is no such container. */
int relay_publish_policy(struct relay *relay, uint32_t container, const void *table, uint32_t size);

/* The container's processes have ended. From now on each of its flows is reset once all bytes that the container sent
 * have reached the server's host and none has moved for settle_deadline. Returns 0 or -ENOENT. */
int relay_finish_flows(struct relay *relay, uint32_t container);

/* Begins to reset every open flow of the container, and returns at once: its counter `flows` is 0 when all are closed.
 * A flow accepted meanwhile is reset now or by relay_remove_container(). Returns 0 or -ENOENT. */
int relay_end_flows(struct relay *relay, uint32_t container);

/* Removes the container, and begins to reset its flows. Returns 0 or -ENOENT. */
int relay_remove_container(struct relay *relay, uint32_t container);

/* Reports that Python has closed a handed-off flow: frees its place in the budget and its synthetic destination (NULL
 * if it has none), and adds `sent` and `received` to the counters. */
void relay_returned(struct relay *relay, uint32_t container, const uint8_t *synthetic, uint64_t sent, uint64_t received);

/* Counts descriptors that Python opens for the container. Returns 1, or 0 if its budget is used up or there is no such
 * container: then Python must not open them. */
int relay_lend(struct relay *relay, uint32_t container, uint32_t count);

/* Reports that Python has closed such descriptors. */
void relay_give_back(struct relay *relay, uint32_t container, uint32_t count);

/* Takes a local port for a connection that Python makes to `to` (ports.h). Returns NULL if there is none, or no such
 * container. `number` is the port that the connection must bind, with SO_REUSEADDR, or 0: any. `range`: see
 * ports_range(). */
struct port_use *relay_take_port(struct relay *relay, uint32_t container, const struct endpoint *to, uint32_t *number,
                                 uint32_t *range);

/* Gives the port back, before the connection `fd` is closed; -1: there was none. */
void relay_give_port(struct relay *relay, struct port_use *port, int fd);

/* Publishes a name's addresses. `synthetic` (2 x 16 bytes: v4-mapped and v6) may be NULL. `addresses` are the real
 * ones; none with `synthetic` means that they aren't resolved yet: a flow that needs them posts an EVENT_RESOLVE. They
 * expire after `seconds`. Wakes the flows that wait for this name. Synthetic addresses move to this name from the name
 * that had them. A container has at most NAMES_MAX synthetic and NAMES_MAX real names: above, the real name that
 * expires first is replaced. Returns 0 or -errno: -ENOSPC if there is no room for a synthetic name, -EBUSY if flows are
 * open to another name's synthetic addresses, -ENOENT if there is no such container. */
int relay_publish_name(struct relay *relay, uint32_t container, const char *name, const uint8_t *synthetic,
                       const uint8_t *addresses, uint32_t count, double seconds);

/* Returns the best verdict (enum verdict) that any traffic of the container to this name could get. VERDICT_REFUSE if there
 * is no such container, or no policy is published. */
int relay_decide_name(struct relay *relay, uint32_t container, const char *name);

/* Reports that a name couldn't be resolved. Wakes the flows that wait for it: they fail with END_NAME_UNKNOWN. */
void relay_name_failed(struct relay *relay, uint32_t container, const char *name);

/* Returns the standing of an address towards the container's client that says `host` (NULL: none): by the policy that
 * was published last, but FREE if the container's DNS gave the address for that name. UNKNOWN without a container. */
enum standing relay_standing(struct relay *relay, uint32_t container, const char *host, const struct endpoint *to);

enum permission { DIAL_REFUSED = 0, DIAL_PERMITTED = 1, DIAL_UNREACHABLE = 2 };

/* The dial guard for Python (dial.h), with the container's table; with container 0 no local address is permitted.
 * `local` 1 permits every address. An address outside local_networks must have a unicast route, so the host's own
 * addresses are refused. Call it in the network namespace that dials. */
enum permission relay_may_dial(struct relay *relay, uint32_t container, const struct endpoint *to, int local);

/* Moves up to `limit` bytes from one connected, non-blocking socket to another. Borrows both until relay_pump_finish(),
 * which must be called before relay_close(). Pipes and descriptors count against the container's budget. Returns NULL
 * with errno on failure: EDQUOT if that is used up. */
struct relay_pump *relay_pump_start(struct relay *relay, uint32_t container, int from, int to, uint64_t limit);

/* Returns an eventfd that becomes readable when the limit is reached, the source has ended or a socket has failed.
 * Borrowed. */
int relay_pump_fd(struct relay_pump *pump);

/* Returns the number of bytes written to the sink so far. */
uint64_t relay_pump_moved(struct relay_pump *pump);

/* Stops the pump at any time and frees it. Returns the number of bytes written to the sink, and in `error` the errno of
 * the socket that failed, or 0. Bytes that were read but not written are lost: then the sink can't be used any more. */
uint64_t relay_pump_finish(struct relay_pump *pump, int *error);

/* Reads the counters of a container, or the sums over all containers for 0. Zeroes if there is no such container. */
void relay_count(struct relay *relay, uint32_t container, struct relay_counters *out);

/* Stops the threads, resets every flow and every handed-off flow that nobody has taken, and frees the relay. */
void relay_close(struct relay *relay);

#endif
