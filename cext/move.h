/* Move: moves bytes in one direction, from one socket to another.
 *
 * A direction owns its pipe and the bytes that its sink didn't accept. Called by the steps, flow.c, pump.c and thread.c.
 */
#ifndef PYINTERCEPTOR_MOVE_H
#define PYINTERCEPTOR_MOVE_H

#include "container.h"

#define BUFFER_SIZE 262144 /* bytes: a thread's copy buffer, and a pipe */
#define ALLOW_ALL UINT64_MAX

/* A thread's copy buffer and its idle pipes. */
struct workspace {
	uint8_t *buffer;
	int (*pipes)[2];
	uint32_t idle_pipes;
};

/* One direction of a flow or pump. Backpressure: nothing is read while bytes are held or in the pipe. */
struct direction {
	uint8_t *held;     /* copied bytes that the sink hasn't accepted yet; NULL: none */
	uint32_t held_at, held_end;
	int pipe[2];       /* -1, -1: none */
	uint32_t in_pipe;  /* bytes */
	uint32_t most;     /* bytes that may be held, up to BUFFER_SIZE */
	uint64_t moved;    /* bytes written to the sink */
	uint64_t allowed;  /* bytes that may still be read; ALLOW_ALL: no limit */
	int error;         /* MOVED_BROKEN: errno of the side that failed */
	uint8_t has_ended, is_shut; /* the source has ended; its end was forwarded to the sink, or must not be */
};

/* IDLE: nothing more can be moved now. MORE: the turn's limit was reached. BROKEN: a socket failed. */
enum moved { MOVED_IDLE, MOVED_MORE, MOVED_BROKEN };

/* Returns 0, or -1 if memory is short: close it in either case. */
int workspace_open(struct workspace *workspace);
void workspace_close(struct workspace *workspace);

/* Moves as many bytes as possible, and forwards the end. After MOVED_MORE, call it again after the thread's other
 * flows. Borrows the sockets. */
enum moved move(struct workspace *workspace, struct container *container, int from, int to, struct direction *direction);

void direction_init(struct direction *direction, uint64_t allowed);

/* Limits the bytes that may be held; 0: to BUFFER_SIZE. */
void direction_limit(struct direction *direction, uint32_t most);

/* Returns 1 if all bytes that were read are written. */
int direction_is_empty(const struct direction *direction);

/* Frees the held bytes, and returns the pipe to the workspace and the container's budget. */
void direction_free(struct workspace *workspace, struct container *container, struct direction *direction);

#endif
