/* SPDX-License-Identifier: Apache-2.0
 *
 * Moves bytes in one direction: by copying, and by splice(2) through a pipe once that is faster. Owns pipes and held
 * bytes; move.h names the callers.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "move.h"

#define COPY_FIRST 131072   /* bytes that are copied before a pipe is used: below, copying is cheaper */
#define PIPE_PAYS 65536     /* bytes left of a message from which a pipe is faster than copying */
#define TURN_MAX 1048576    /* bytes a flow may move before the thread's other flows have their turn */
#define IDLE_PIPES_MAX 32   /* idle pipes that a thread keeps */

int workspace_open(struct workspace *workspace)
{
	workspace->buffer = malloc(BUFFER_SIZE);
	workspace->pipes = calloc(IDLE_PIPES_MAX, sizeof *workspace->pipes);
	return workspace->buffer && workspace->pipes ? 0 : -1;
}

void workspace_close(struct workspace *workspace)
{
	for (uint32_t i = 0; i < workspace->idle_pipes; i++) {
		close(workspace->pipes[i][0]);
		close(workspace->pipes[i][1]);
	}
	free(workspace->buffer);
	free(workspace->pipes);
}

static int pipe_get(struct workspace *workspace, struct container *container, int pipe[2])
{
	if (atomic_fetch_add(&container->pipes, 1) >= container->budget.pipes)
		goto none;
	if (!places_take(&container->descriptors, 2))
		goto none;
	if (workspace->idle_pipes) {
		memcpy(pipe, workspace->pipes[--workspace->idle_pipes], sizeof(int[2]));
		return 1;
	}
	if (pipe2(pipe, O_NONBLOCK | O_CLOEXEC) < 0) {
		pipe[0] = pipe[1] = -1;
		goto unmade;
	}
	/* Above fs.pipe-user-pages-soft a pipe can't grow and has only a page or two: then copying is faster. */
	if (fcntl(pipe[1], F_SETPIPE_SZ, BUFFER_SIZE) >= BUFFER_SIZE)
		return 1;
	close(pipe[0]);
	close(pipe[1]);
	pipe[0] = pipe[1] = -1;
unmade:
	places_give(&container->descriptors, 2);
none:
	atomic_fetch_sub(&container->pipes, 1);
	return 0;
}

static void pipe_put(struct workspace *workspace, struct container *container, struct direction *direction)
{
	int *pipe = direction->pipe;
	if (pipe[0] < 0)
		return;
	if (direction->in_pipe == 0 && workspace->idle_pipes < IDLE_PIPES_MAX) {
		memcpy(workspace->pipes[workspace->idle_pipes++], pipe, sizeof(int[2]));
	} else {
		close(pipe[0]);
		close(pipe[1]);
	}
	pipe[0] = pipe[1] = -1;
	direction->in_pipe = 0;
	places_give(&container->descriptors, 2);
	atomic_fetch_sub(&container->pipes, 1);
}

void direction_init(struct direction *direction, uint64_t allowed)
{
	memset(direction, 0, sizeof *direction);
	direction->pipe[0] = direction->pipe[1] = -1;
	direction->allowed = allowed;
	direction->most = BUFFER_SIZE;
}

void direction_limit(struct direction *direction, uint32_t most)
{
	direction->most = most && most < BUFFER_SIZE ? most : BUFFER_SIZE;
}

void direction_free(struct workspace *workspace, struct container *container, struct direction *direction)
{
	pipe_put(workspace, container, direction);
	free(direction->held);
	direction->held = NULL;
}

int direction_is_empty(const struct direction *direction)
{
	return !direction->held && direction->in_pipe == 0;
}

/* Sends the held bytes. Returns 1 if none is left, 0 if the sink is full, -1 with errno if it failed. */
static int flush_held(int to, struct direction *direction)
{
	while (direction->held) {
		ssize_t sent = send(to, direction->held + direction->held_at, direction->held_end - direction->held_at, MSG_NOSIGNAL);
		if (sent < 0)
			return errno == EAGAIN ? 0 : -1;
		direction->moved += (uint64_t)sent;
		direction->held_at += (uint32_t)sent;
		if (direction->held_at == direction->held_end) {
			free(direction->held);
			direction->held = NULL;
		}
	}
	return 1;
}

static int flush_pipe(int to, struct direction *direction)
{
	while (direction->in_pipe) {
		ssize_t sent = splice(direction->pipe[0], NULL, to, NULL, direction->in_pipe, SPLICE_F_NONBLOCK | SPLICE_F_MOVE);
		if (sent < 0)
			return errno == EAGAIN ? 0 : -1;
		direction->moved += (uint64_t)sent;
		direction->in_pipe -= (uint32_t)sent;
	}
	return 1;
}

static int hold(struct direction *direction, const uint8_t *bytes, uint32_t length)
{
	direction->held = malloc(length);
	if (!direction->held)
		return 0;
	memcpy(direction->held, bytes, length);
	direction->held_at = 0;
	direction->held_end = length;
	return 1;
}

static size_t readable(const struct direction *direction)
{
	return direction->allowed < direction->most ? direction->allowed : direction->most;
}

/* Reads once and writes once; holds the bytes that the sink doesn't accept. Returns the number of bytes read, 0 if the
 * source has ended, -1 with errno if a side failed or nothing can be read. */
static ssize_t copy_once(struct workspace *workspace, int from, int to, struct direction *direction)
{
	ssize_t got = recv(from, workspace->buffer, readable(direction), 0);
	if (got <= 0)
		return got;
	ssize_t sent = send(to, workspace->buffer, (size_t)got, MSG_NOSIGNAL);
	if (sent < 0 && errno != EAGAIN)
		return -1;
	if (sent < 0)
		sent = 0;
	direction->moved += (uint64_t)sent;
	if (sent < got && !hold(direction, workspace->buffer + sent, (uint32_t)(got - sent))) {
		errno = ENOMEM;
		return -1;
	}
	return got;
}

static ssize_t splice_once(int from, struct direction *direction)
{
	/* EAGAIN can also mean a full pipe. The pipe is empty here, so EAGAIN means an empty socket. */
	ssize_t got = splice(from, NULL, direction->pipe[1], NULL, readable(direction), SPLICE_F_NONBLOCK | SPLICE_F_MOVE);
	if (got > 0)
		direction->in_pipe = (uint32_t)got;
	return got;
}

static void forward_end(int to, struct direction *direction)
{
	if (direction->has_ended && !direction->is_shut) {
		direction->is_shut = 1;
		shutdown(to, SHUT_WR); /* an error is ignored: the other direction reports a failed sink */
	}
}

static enum moved broken(struct direction *direction)
{
	direction->error = errno ? errno : EIO;
	return MOVED_BROKEN;
}

enum moved move(struct workspace *workspace, struct container *container, int from, int to, struct direction *direction)
{
	uint64_t before = direction->moved;
	enum moved result = MOVED_IDLE;
	for (;;) {
		int flushed = flush_held(to, direction);
		if (flushed == 1)
			flushed = flush_pipe(to, direction);
		if (flushed < 0)
			return broken(direction);
		if (flushed == 0)
			break;
		if (direction->has_ended) {
			forward_end(to, direction);
			break;
		}
		if (direction->allowed == 0)
			break;
		if (direction->moved - before > TURN_MAX) {
			result = MOVED_MORE;
			break;
		}
		int is_large = direction->moved >= COPY_FIRST && direction->allowed >= PIPE_PAYS;
		if (is_large && direction->pipe[0] < 0)
			is_large = pipe_get(workspace, container, direction->pipe);
		ssize_t got = is_large ? splice_once(from, direction) : copy_once(workspace, from, to, direction);
		if (got < 0 && errno != EAGAIN)
			return broken(direction);
		if (got < 0)
			break;
		direction->has_ended = got == 0;
		if (direction->allowed != ALLOW_ALL)
			direction->allowed -= (uint64_t)got;
	}
	if (direction->in_pipe == 0)
		pipe_put(workspace, container, direction);
	return result;
}
