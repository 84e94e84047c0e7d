/* A thread of the relay. Owns its epoll, its flows and its pumps. Called by relay.c, container.c and accept.c. */
#ifndef PYINTERCEPTOR_THREAD_H
#define PYINTERCEPTOR_THREAD_H

#include "container.h"
#include "flow.h"
#include "pump.h"

struct thread {
	struct relay *relay;
	pthread_t id;
	int epoll, wake, netlink, spare; /* `spare` is closed when no descriptor is free, to accept a connection and reset it */
	int is_listening;
	struct workspace workspace;
	struct flows flows;
	struct pumps pumps;
	pthread_mutex_t lock; /* guards the news */
	struct share *news;   /* list of shares with news; each holds a reference to its container */
};

/* Opens the thread's resources. Returns 0, or -1 with errno: then call thread_dispose(). */
int thread_prepare(struct thread *thread, struct relay *relay, uint32_t number);

/* Starts the thread. Returns 0, or an errno. */
int thread_start(struct thread *thread);

/* Closes the thread's resources. The thread must have ended, or never started. */
void thread_dispose(struct thread *thread);

/* Watches a capture's listener. Returns 0, or -1 with errno. */
int thread_listen(struct thread *thread, uint32_t capture);

/* Posts news for a container's flows to all threads, and wakes them. May be called from any thread. */
void tell_threads(struct relay *relay, struct container *container, enum news news);

/* Wakes all threads, so that they check `is_closing`. */
void wake_threads(struct relay *relay);

#endif
