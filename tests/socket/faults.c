/* Fails the n-th call of one function that the relay's threads make. Preloaded by faulty.py; the calls of the process's first
 * thread, which is Python's, always succeed.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);

static atomic_long left; /* calls until the one that fails, with it */
static const char *volatile wanted = "";
static atomic_int has_failed;
static _Thread_local int is_ours; /* 0: not known yet, 1: a relay's thread, 2: the first one */

/* From now on the n-th call of `function` fails; 0: none. The string stays the caller's. */
void faults_arm(const char *function, long n)
{
	wanted = function;
	atomic_store(&has_failed, 0);
	atomic_store(&left, n);
}

int faults_has_failed(void)
{
	return atomic_load(&has_failed);
}

static int fails(const char *name, int error)
{
	if (!is_ours)
		is_ours = gettid() == getpid() ? 2 : 1;
	if (is_ours == 2 || strcmp(name, wanted) != 0 || atomic_fetch_sub(&left, 1) != 1)
		return 0;
	atomic_store(&has_failed, 1);
	errno = error;
	return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAULTY(type, name, error, parameters, arguments) \
	type name parameters { return fails(#name, error) ? (type)-1 : REAL(name) arguments; }

struct epoll_event;
int epoll_ctl(int, int, int, struct epoll_event *);
int pipe2(int[2], int);
ssize_t splice(int, off64_t *, int, off64_t *, size_t, unsigned int);

FAULTY(int, epoll_ctl, ENOSPC, (int epoll, int what, int fd, struct epoll_event *event), (epoll, what, fd, event))
FAULTY(int, accept4, EMFILE, (int fd, struct sockaddr *from, socklen_t *size, int flags), (fd, from, size, flags))
FAULTY(int, getsockname, ENOBUFS, (int fd, struct sockaddr *own, socklen_t *size), (fd, own, size))
FAULTY(int, getsockopt, ENOBUFS, (int fd, int level, int name, void *value, socklen_t *size), (fd, level, name, value, size))
FAULTY(int, setsockopt, ENOMEM, (int fd, int level, int name, const void *value, socklen_t size), (fd, level, name, value, size))
FAULTY(ssize_t, recv, ENOMEM, (int fd, void *bytes, size_t size, int flags), (fd, bytes, size, flags))
FAULTY(ssize_t, send, ENOBUFS, (int fd, const void *bytes, size_t size, int flags), (fd, bytes, size, flags))
FAULTY(ssize_t, splice, ENOMEM, (int from, off64_t *at, int to, off64_t *there, size_t size, unsigned int flags),
       (from, at, to, there, size, flags))
FAULTY(int, pipe2, EMFILE, (int fds[2], int flags), (fds, flags))
FAULTY(int, socket, EMFILE, (int family, int type, int protocol), (family, type, protocol))
FAULTY(int, connect, EADDRNOTAVAIL, (int fd, const struct sockaddr *to, socklen_t size), (fd, to, size))
FAULTY(ssize_t, write, EINTR, (int fd, const void *bytes, size_t size), (fd, bytes, size))

int fcntl64(int fd, int what, ...)
{
	va_list rest;
	va_start(rest, what);
	long argument = va_arg(rest, long);
	va_end(rest);
	int (*real)(int, int, ...) = dlsym(RTLD_NEXT, "fcntl64");
	return fails("fcntl", EMFILE) ? -1 : real(fd, what, argument);
}

int fcntl(int fd, int what, ...) __attribute__((alias("fcntl64")));

void *malloc(size_t size)
{
	return fails("malloc", ENOMEM) ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
	return fails("calloc", ENOMEM) ? NULL : __libc_calloc(count, size);
}

void *realloc(void *old, size_t size)
{
	return fails("realloc", ENOMEM) ? NULL : __libc_realloc(old, size);
}
