/* Move: bytes one way.
 *
 * A direction owns its pipe and the remainder that its sink didn't take. Called by flow.c and pump.c.
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

/* One way of a flow. Nothing is read while bytes are held or in the pipe: that is the whole backpressure. */
struct direction {
	uint8_t *held;     /* what the sink did not take of a copy */
	uint32_t held_at, held_end;
	int pipe[2];       /* -1, -1 while there is none */
	uint32_t in_pipe;
	uint64_t moved;
	uint64_t allowed;  /* bytes that may be read before somebody looks at the next ones */
	int error;         /* MOVED_BROKEN: errno of the side that failed */
	uint8_t has_ended, is_shut;
};

enum moved { MOVED_IDLE, MOVED_MORE, MOVED_BROKEN };

int workspace_open(struct workspace *workspace); /* 0, or -1 without memory */
void workspace_close(struct workspace *workspace);

/* Moves what can be moved. MOVED_MORE: others of the thread have their turn first. */
enum moved move(struct workspace *workspace, struct container *container, int from, int to, struct direction *direction);
void direction_init(struct direction *direction, uint64_t allowed);
int direction_is_empty(const struct direction *direction);
void direction_free(struct workspace *workspace, struct container *container, struct direction *direction);

#endif
