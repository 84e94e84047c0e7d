/* A thread of the relay: its epoll, its turns, its flows and pumps. */
#ifndef PYINTERCEPTOR_THREAD_H
#define PYINTERCEPTOR_THREAD_H

#include "container.h"
#include "flow.h"
#include "pump.h"

struct thread {
	struct relay *relay;
	pthread_t id;
	int epoll, wake, netlink, spare; /* `spare`: a descriptor whose place lets a connection be accepted and reset */
	int is_listening;
	struct workspace workspace;
	struct flows flows;
	struct pumps pumps;
	pthread_mutex_t lock; /* of the news */
	struct share *news;
};

int thread_prepare(struct thread *thread, struct relay *relay, uint32_t number); /* 0, or -1 with errno */
int thread_start(struct thread *thread);                                        /* 0, or an errno */
void thread_dispose(struct thread *thread);
int thread_listen(struct thread *thread, uint32_t capture); /* 0, or -1 with errno */

/* For all threads: something has come for a container's flows (enum news). */
void tell_threads(struct relay *relay, struct container *container, enum news news);
void wake_threads(struct relay *relay);

#endif
