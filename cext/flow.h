/* What the relay's own files share: containers, threads, flows.
 *
 * Locks: a container's `lock` guards its table and names; `relay->lock` the list of containers, the events and the pumps that come
 * and go. Counters are atomic. A flow belongs to one thread and is touched by no other.
 */
#ifndef PYINTERCEPTOR_FLOW_H
#define PYINTERCEPTOR_FLOW_H

#include <pthread.h>
#include <stdatomic.h>

#include "dial.h"
#include "frame.h"
#include "names.h"
#include "records.h"
#include "relay.h"
#include "sniff.h"

#define THREADS_MAX 16
#define CONTAINER_BUCKETS 1024 /* a power of two: interfaces are numbered one after the other */
/* The low bits of what epoll says of a socket; the rest is the address of its flow or pump. */
#define COOKIE_UPSTREAM 1
#define COOKIE_PUMP 2
#define IDLE_PIPES_MAX 32  /* kept by a thread */
#define BUFFER_SIZE 262144 /* bytes: a thread's copy buffer, and a pipe */

struct counters {
	_Atomic uint64_t accepted, spliced, handled, refused, failed_dials, over_budget, reset, timed_out, no_resources;
	_Atomic uint64_t sent, received, flows;
};

/* An immutable policy blob, shared by whoever decides by it at this moment. */
struct table {
	atomic_uint references;
	uint32_t size;
	_Alignas(8) uint8_t blob[];
};

struct container {
	struct container *next;              /* in its bucket by number */
	struct container *next_on_interface; /* in its bucket by interface */
	atomic_uint references; /* the list's, and one a flow */
	uint32_t id;            /* its number */
	atomic_int is_gone;
	struct relay_budget budget;
	struct attachment attachment;
	pthread_mutex_t lock;
	struct table *table; /* NULL: nothing is decided yet, all is refused */
	struct names *names;
	atomic_uint openings, handoffs, pipes;
	struct counters counters;
};

enum stage { STAGE_OPENING, STAGE_RESOLVING, STAGE_DIALLING, STAGE_MOVING, STAGE_DEAD };

#define ALLOW_ALL UINT64_MAX

/* One way of a flow. Nothing is read while bytes are held or in the pipe: that is the whole backpressure. */
struct direction {
	uint8_t *held; /* what the sink did not take of a copy */
	uint32_t held_at, held_end;
	int pipe[2]; /* -1, -1 while there is none */
	uint32_t in_pipe;
	uint64_t moved;
	uint64_t allowed; /* bytes that may be read before somebody looks at what comes next */
	uint8_t has_ended, is_shut;
};

/* Where one way of a followed flow stands in its messages. */
enum place { AT_HEAD, IN_LENGTH, IN_CHUNKS, AT_END };

struct follow {
	struct head request_head, response_head; /* that are being read */
	struct chunks request_chunks, response_chunks;
	uint8_t request, response; /* enum place */
	uint8_t is_awaited;        /* a request has gone whose response isn't complete */
	uint8_t to_head;           /* that request's method is HEAD */
	uint8_t is_last;           /* nothing more is asked on this connection */
};

struct flow {
	struct flow *next, **link; /* in its thread's list */
	struct flow *next_ready;
	struct container *container;
	struct dial *dial;
	char *host; /* as the opening says, or the destination's name; NULL: unknown */
	char *name; /* what the container's DNS gave the destination for; NULL: nothing */
	uint64_t number;
	int client, upstream;
	uint8_t stage, is_judged, is_ready, is_opening, is_followed, is_synthetic, has_failed, client_has_closed, protocol, cause;
	struct decision decision;
	struct endpoint from, to;
	struct direction sent, received;
	struct sniffing opening; /* how far it was looked at */
	struct follow follow;
	double began, first_byte, last_byte; /* seconds, CLOCK_MONOTONIC */
	double stage_began;
};

struct thread {
	struct relay *relay;
	pthread_t id;
	int epoll, wake, netlink, spare;
	double now;
	struct flow *flows, *resolving, *ready, *dead; /* a flow that waits for a name is in `resolving`, any other living one in `flows` */
	struct relay_pump *started_pumps, *finished_pumps; /* by their owners: under the relay's lock */
	struct relay_pump *ready_pumps, *dead_pumps;
	atomic_int has_lost_container; /* some flow's container is gone */
	int is_listening;
	uint8_t *buffer;
	int (*pipes)[2]; /* idle ones */
	uint32_t idle_pipes;
};

struct relay {
	struct relay_options options;
	int event_fd;
	int listeners[CAPTURES_MAX]; /* -1 where there is none */
	uint32_t thread_count;
	struct thread threads[THREADS_MAX];
	atomic_int is_closing;
	_Atomic uint64_t numbers;
	pthread_mutex_t lock;
	struct container *containers[CONTAINER_BUCKETS]; /* by number */
	struct container *by_interface[CONTAINER_BUCKETS];
	struct relay_event *events; /* a ring of EVENTS_MAX */
	uint32_t first_event, event_count;
	struct records *records;
	struct counters counters;
};

/* relay.c */
double now(void); /* seconds, CLOCK_MONOTONIC */

/* container.c */
struct container *container_find(struct relay *relay, uint32_t id); /* takes a reference, or NULL */
struct container *container_on(struct relay *relay, uint32_t capture, uint32_t interface); /* likewise */
void container_release(struct container *container);
void container_release_name(struct container *container, const uint8_t synthetic[16]); /* a flow to it has ended */
struct table *table_of(struct container *container); /* takes a reference, or NULL */
void table_release(struct table *table);

/* events.c */
void signal_fd(int fd);
int relay_post(struct relay *relay, const struct relay_event *event); /* 0, or -1 where there is no room */

/* thread.c */
int thread_prepare(struct thread *thread, struct relay *relay); /* 0, or -1 with errno */
int thread_start(struct thread *thread);                        /* 0, or an errno */
void thread_dispose(struct thread *thread);
void wake_threads(struct relay *relay);
int thread_listen(struct thread *thread, uint32_t capture); /* 0, or -1 with errno */
void thread_stop_listening(struct thread *thread);          /* until the next tick */

/* accept.c */
void flow_accept(struct thread *thread, uint32_t capture);

/* judge.c */
void judge(struct thread *thread, struct flow *flow);
void decide(struct flow *flow, const struct table *table, uint32_t protocol, const char *host);
int may_reach_silently(struct flow *flow); /* by the policy of this moment, where nothing is said yet */

/* follow.c */
void follow_begin(struct flow *flow, const struct frame *first);
int follow(struct thread *thread, struct flow *flow); /* 1: more may move now */

/* connect.c */
void begin_dial(struct thread *thread, struct flow *flow);
void step_dial(struct thread *thread, struct flow *flow);
void dial_failed(struct thread *thread, struct flow *flow, enum end_cause cause);

/* flow.c */
struct relay_event event_of(const struct flow *flow, enum event_kind kind);
void flow_decided(struct flow *flow); /* it is no opening any more */
void flow_enlist(struct flow *flow, struct flow **list);
void flow_delist(struct flow *flow);
void flow_service(struct thread *thread, struct flow *flow, int is_broken);
void flow_tick(struct thread *thread, struct flow *flow);
void flow_end(struct thread *thread, struct flow *flow, enum end_cause cause);
void hand_off(struct thread *thread, struct flow *flow);
void set_linger(int fd, int is_reset);
int peer_has_closed(int fd);
int is_failed(int fd);

/* move.c */
enum moved { MOVED_IDLE, MOVED_MORE, MOVED_BROKEN };
enum moved move(struct thread *thread, struct container *container, int from, int to, struct direction *direction);
int direction_is_empty(const struct direction *direction);
void direction_free(struct thread *thread, struct container *container, struct direction *direction);

/* pump.c */
void pump_service(struct thread *thread, struct relay_pump *pump, int is_broken);
void pumps_take(struct thread *thread);
void pumps_serve_ready(struct thread *thread);
void pumps_bury(struct thread *thread);

#define COUNT(flow, what, by) \
	(atomic_fetch_add(&(flow)->container->counters.what, by), atomic_fetch_add(&thread->relay->counters.what, by))

#endif
