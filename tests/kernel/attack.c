/* The attempts of a hostile image, which holds only this program. Prints a line for each: "name: done" or the error. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/bpf.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void tell(const char *name, long result) {
  printf("%s: %s\n", name, result < 0 ? strerrorname_np(errno) : "done");
  fflush(stdout);
}

static long set_link_down(void) {
  struct ifreq request = {.ifr_name = "eth0"};
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, &request) < 0) return -1;
  request.ifr_flags &= ~IFF_UP;
  return ioctl(fd, SIOCSIFFLAGS, &request);
}

/* socketcall(2) of the 32-bit table, in a child because it may be killed. If the call is allowed, it fails with EFAULT,
 * because its arguments can't be read. */
static long old_socketcall(void) {
  int status = 0;
  if (fork() == 0) {
    long result = -EFAULT;
#ifdef __x86_64__
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(102), "b"(1), "c"(0) : "memory", "r8", "r9", "r10", "r11");
#endif
    _exit(result == -EFAULT ? 0 : 1);
  }
  wait(&status);
  errno = ENOSYS;
  return status == 0 ? 0 : -1;
}

static long clone_user(void) {
  long child = syscall(SYS_clone, CLONE_NEWUSER | 17, 0, 0, 0, 0);
  if (child == 0) _exit(0);
  return child;
}

static long clone3_let_through(void) { return syscall(SYS_clone3, 0, 0) < 0 && errno == EINVAL ? 0 : -1; }

static long ring(void) { return syscall(SYS_io_uring_setup, 1, 0) < 0 && errno == EFAULT ? 0 : -1; }

int main(void) {
  union bpf_attr map = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 1};
  tell("stream", socket(AF_INET, SOCK_STREAM, 0));
  tell("packet", socket(AF_PACKET, SOCK_RAW, 0));
  tell("raw", socket(AF_INET, SOCK_RAW, 1));
  tell("raw6", socket(AF_INET6, SOCK_RAW, 58));
  tell("vsock", socket(AF_VSOCK, SOCK_STREAM, 0));
  tell("socketcall", old_socketcall());
  tell("io_uring", ring());
  tell("bpf", syscall(SYS_bpf, BPF_MAP_CREATE, &map, sizeof map));
  tell("clone", clone_user());
  tell("clone3", clone3_let_through());
  tell("mount", mount("proc", "/tmp", "proc", 0, 0));
  tell("link_down", set_link_down());
  tell("unshare_user", unshare(CLONE_NEWUSER));
  tell("unshare_net", unshare(CLONE_NEWNET));
  while (wait(0) > 0) continue;
  return 0;
}
