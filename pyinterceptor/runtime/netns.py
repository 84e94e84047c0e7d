"""The embedded runtime: runs commands in namespaces of their own, with the system's files read-only.

The network namespace exists and is attached before the first process starts. That process reads a pipe whose other
end only we hold: when our process ends for any reason, the kernel ends everything inside. No process inside has a
capability or can gain one. Sockets and FIFOs of other programs in the visible files stay reachable if their
permissions allow it, and the kernel is the host's: run untrusted code in a podman image or a virtual machine.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import trio

from pyinterceptor.errors import RuntimeFailure
from pyinterceptor.paths import STATE
from pyinterceptor.policy.limits import Limits
from pyinterceptor.runtime.capabilities import DAC_OVERRIDE, SETGID, SETUID, SYS_ADMIN, hand_down
from pyinterceptor.runtime.cgroups import open_cgroup
from pyinterceptor.runtime.files import EMPTY, Files, home_of
from pyinterceptor.runtime.filesystem import View
from pyinterceptor.runtime.hostname import hostname
from pyinterceptor.runtime.namespaces import CLONE_FS, CLONE_NEWNET, CLONE_NEWNS, setns, unshare
from pyinterceptor.runtime.occupied import occupying
from pyinterceptor.runtime.process import Own, Running, Started, Stream, split, start_process
from pyinterceptor.runtime.repository import completing, find_repositories, protected
from pyinterceptor.runtime.runtime import NAMESERVER, STOP_DEADLINE, Attach
from pyinterceptor.runtime.seccomp import compile_filter, install_filter
from pyinterceptor.runtime.uids import Range, become, open_range, outside
from pyinterceptor.runtime.user import User, invoking_user, named_user
from pyinterceptor.runtime.walk import walk
from pyinterceptor.threads import on_own_thread

# The first port that needs no capability: ip-sysctl.rst. Each network namespace has its own.
FIRST_FREE_PORT = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
# Process 1 inside reads the pipe that we hold. When it ends, the kernel ends all others, orphans included. Its children
# are reaped because SIGCHLD is ignored (sigaction(2), SA_NOCLDWAIT); a reaper would have to wait for them. It has a uid
# of its own: a command with the same uid could stop it (ptrace(2)), or open the pipe's other end in /proc.
OWN = 0x7FFFFFFE  # uid and gid
SWITCH = ("setpriv", f"--reuid={OWN}", f"--regid={OWN}", "--clear-groups", "--inh-caps=-all")
FIRST = (*SWITCH, "env", "--ignore-signal=CHLD", "cat")
# The mount namespace comes last: the others are opened in the host's /proc.
NAMESPACES = ("pid", "ipc", "uts", "net", "mnt")
ENDED = "the container has ended, because its first process has ended"
# hosts(5). The container's own name has an address of its own, as on Debian, which no other name has.
HOSTS = """127.0.0.1 localhost
::1 localhost ip6-localhost ip6-loopback
127.0.1.1 {0}
"""
START_TIMEOUT = 20.0  # seconds
# Variables that a command inherits. Others are withheld, because they may hold secrets of the handlers, such as keys.
ENVIRONMENT = re.compile(r"PATH|HOME|USER|LOGNAME|SHELL|TERM|COLORTERM|TZ|LANG|LANGUAGE|LC_[A-Z]+")


class NetnsRuntime:
    """A container of the embedded runtime, made by `open_netns_container`. Its commands end with it."""

    def __init__(
        self,
        init: Running,
        namespaces: Mapping[str, int],
        workdir: Path,
        user: User,
        home: Path,
        become: Callable[[], None],
    ) -> None:
        """`become` gives a new process its user and its cgroup."""
        self._init = init
        self._namespaces = namespaces
        self._workdir = workdir
        self._user = user
        self._home = home
        self._become = become
        self._started = Started()
        self._stopped = False
        self._why_stopped = "the container is stopped"

    @property
    def pid(self) -> int:
        """Host pid of the container's first process; the container ends when it does."""
        return self._init.pid

    @property
    def user(self) -> str:
        """The user that commands run as."""
        return self._user.name or str(self._user.uid)

    def runs_as(self, user: str) -> bool:
        """Whether this user of the host has the uid of the commands."""
        return named_user(user).uid == self._user.uid

    @property
    def has_ended(self) -> bool:
        """Whether it was stopped, or its first process has ended. All others end with that one."""
        return self._stopped or self._init.has_ended

    async def wait_until_ended(self) -> None:
        """Returns once the first process has ended."""
        await self._init.wait()
        self._why_stopped = ENDED

    async def start(
        self,
        argv: str | Sequence[str],
        *,
        stdin: Stream = subprocess.DEVNULL,
        stdout: Stream = subprocess.DEVNULL,
        stderr: Stream = subprocess.DEVNULL,
        env: Mapping[str, str] | None = None,
    ) -> Running:
        """Starts a command in a session of its own. `env` adds to the inherited variables."""
        return await self._start(
            split(argv), env, start_new_session=True, stdin=stdin, stdout=stdout, stderr=stderr
        )

    async def start_inherited(
        self, words: list[str], env: Mapping[str, str] | None, prefix: Sequence[str]
    ) -> Running:
        """Starts a command on our own streams."""
        return await self._start(words, env, prefix, process_group=0)

    async def stop(self) -> None:
        """Ends all processes inside. A second call does nothing."""
        if self._stopped:
            return
        self._stopped = True
        with trio.move_on_after(STOP_DEADLINE, shield=True) as scope:
            assert self._init.stdin is not None
            await self._init.stdin.aclose()
            await self._started.reap()  # process 1 ends once its whole PID namespace is reaped: pid_namespaces(7)
            with trio.move_on_after(5):
                await self._init.wait()
            await self._init.aclose()
        if scope.cancelled_caught:
            raise RuntimeFailure(f"stop the container: its processes have not ended in {STOP_DEADLINE:.0f} s")

    async def _start(
        self, words: list[str], env: Mapping[str, str] | None, prefix: Sequence[str] = (), **options: Any
    ) -> Running:
        if self.has_ended:
            raise RuntimeFailure(f"run {words[0]}: {self._why()}")
        environment = {**_environment(), **self._user.environment(), "HOME": str(self._home), **(env or {})}
        options |= {"env": environment, "preexec_fn": self._become}
        try:
            return self._started.add(await start_process([*prefix, *words], enter=self._enter, **options))
        except RuntimeFailure as error:
            if self.has_ended:
                raise RuntimeFailure(f"run {words[0]}: {self._why()}") from error
            raise

    def _why(self) -> str:
        return self._why_stopped if self._stopped else ENDED

    def _enter(self) -> Own:
        """Moves the calling thread, and so its children, into the container.

        Returns a copy of its mount namespace, by which the command's descendants are known; none of them can leave it.
        No program is executed inside with more rights than the command has, because a command may have planted it.
        """
        try:
            own = os.open("/proc/thread-self/ns", os.O_RDONLY | os.O_CLOEXEC)  # the container's /proc lacks us
            try:
                for name in NAMESPACES:
                    if name == "mnt":
                        unshare(CLONE_FS)
                    setns(self._namespaces[name])
                unshare(CLONE_NEWNS)
                os.chdir(self._workdir)
                mounts = os.open("mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=own)
            finally:
                os.close(own)
        except OSError as error:
            raise RuntimeFailure(f"enter the container: {error.strerror}") from error
        hand_down()
        install_filter()
        return Own("mnt", mounts)


@asynccontextmanager
async def open_netns_container(
    *,
    name: str,
    attach: Attach,
    nameserver: str = NAMESERVER,
    files: Files = EMPTY,
    user: str | None = None,
    limits: Limits | None = None,
) -> AsyncIterator[NetnsRuntime]:
    """Opens a container without an image. `attach(netns_fd)` is called before any process inside runs.

    The working directory is writable inside for `user` (default: the user that invoked us) if it is so outside; "/"
    stays read-only. No other container can have it at the same time. `limits` (default: those of Limits()) hold for all
    commands together. Needs root.

    Raises RuntimeFailure, and the errors of `attach`.
    """
    as_user = invoking_user() if user is None else named_user(user)
    _prepare(files)
    home, limits = home_of(as_user), limits or Limits()
    async with AsyncExitStack() as stack:
        join = await stack.enter_async_context(open_cgroup(limits))
        stack.enter_context(occupying(files.occupied(), name))
        repositories = await trio.to_thread.run_sync(_repositories, files)
        stack.enter_context(completing(repositories))
        range_ = stack.enter_context(open_range(as_user, files.hosts_writable()))
        netns_fd = await trio.to_thread.run_sync(on_own_thread, _new_netns)
        stack.callback(os.close, netns_fd)
        await attach(netns_fd)
        init, pid, view = await _start_init(name, files, repositories, home, nameserver, netns_fd, limits.tmp, range_)
        stack.push_async_callback(init.aclose)
        namespaces = stack.enter_context(_namespaces(pid, netns_fd))
        _own(pid, view.fresh, *outside(as_user, range_))

        def become_user() -> None:
            if join is not None:
                join()
            become(as_user, range_)

        runtime = NetnsRuntime(init, namespaces, view.workdir, as_user, home, become_user)
        stack.push_async_callback(runtime.stop)
        yield runtime


def _prepare(files: Files) -> None:
    """Checks the requirements, and makes the state directory, which is hidden."""
    if os.geteuid() != 0:
        raise RuntimeFailure("start a container: needs root; run it with sudo")
    if shutil.which("bwrap") is None:
        raise RuntimeFailure("start a container: bwrap is missing; run: apt install bubblewrap")
    STATE.mkdir(mode=0o700, parents=True, exist_ok=True)
    if files.workdir is not None and not files.workdir.is_dir():
        raise RuntimeFailure(f"use {files.workdir} as working directory: not a directory")


def _new_netns() -> int:
    try:
        unshare(CLONE_NEWNET)
        FIRST_FREE_PORT.write_text("0")
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise RuntimeFailure(f"make a network namespace: {error.strerror}") from error


def _repositories(files: Files) -> list[Path]:
    roots = [root for root in files.all_writable() if root not in files.guarded]
    return list(dict.fromkeys(found for root in roots for found in find_repositories(root, files.guarded)))


async def _start_init(
    name: str,
    files: Files,
    repositories: list[Path],
    home: Path,
    nameserver: str,
    netns_fd: int,
    tmp: int,
    range_: Range | None,
) -> tuple[Running, int, View]:
    """Starts bwrap. Returns it, the host pid of process 1 inside, and the files that it mounted."""
    with ExitStack() as stack:
        resolv_conf = stack.enter_context(_file(f"nameserver {nameserver}\n".encode()))
        hosts = stack.enter_context(_file(HOSTS.format(hostname(name)).encode()))
        filter_ = stack.enter_context(_file(compile_filter(platform.machine())))
        info_read, info_write = os.pipe2(os.O_CLOEXEC)
        stack.callback(os.close, info_read)
        closing = ExitStack()
        stack.enter_context(closing)
        closing.callback(os.close, info_write)
        view = View(files, [*protected(repositories)], home, resolv_conf, hosts, tmp)
        view.complete_home()
        argv = ["bwrap", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--hostname", hostname(name)]
        argv += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        # bwrap applies the filter when it has made the mounts, for which its newer versions use openat2(2).
        argv += ["--new-session", "--info-fd", str(info_write), "--seccomp", str(filter_)]
        argv += [*view.arguments(), "--as-pid-1", "--", *FIRST]

        def enter() -> None:
            setns(netns_fd, CLONE_NEWNET)
            if range_ is not None:
                range_.show([*view.shown(), *files.hosts_writable(), Path("/proc"), Path("/dev")])
            hand_down(SYS_ADMIN, DAC_OVERRIDE, SETUID, SETGID)  # for bwrap's mounts and for SWITCH, which drops them

        pipe = subprocess.PIPE
        fds = (info_write, resolv_conf, hosts, filter_)
        init = await start_process(
            argv,
            enter=enter,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            pass_fds=fds,
            cwd="/",
            env=_environment(),
            start_new_session=True,
        )
        closing.close()
        try:
            await _wait_until_up(init)
            return init, json.loads(os.read(info_read, 4096))["child-pid"], view
        except BaseException:
            await init.aclose()
            raise


def _own(pid: int, places: Iterable[Path], uid: int, gid: int) -> None:
    """Makes a user of the host the owner of directories in the container whose process 1 has this pid."""
    root = Path(f"/proc/{pid}/root")
    for place in places:
        try:
            with walk(root, place.relative_to("/")) as fd:
                os.chown(fd, uid, gid)
        except OSError as error:
            raise RuntimeFailure(f"make the user the owner of {place} in the container: {error.strerror}") from error


@contextmanager
def _file(content: bytes) -> Iterator[int]:
    """Opens a file in memory with this content."""
    fd = os.memfd_create("content")
    try:
        os.write(fd, content)
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)


async def _wait_until_up(init: Running) -> None:
    """Waits until process 1 echoes a byte, which shows that the files are mounted and that it runs."""
    assert init.stdin is not None
    assert init.stdout is not None
    assert init.stderr is not None
    answer = b""
    with trio.move_on_after(START_TIMEOUT):
        try:
            await init.stdin.send_all(b"\n")
            answer = await init.stdout.receive_some(1)
        except trio.BrokenResourceError:
            answer = b""
        if not answer:
            errors = await init.stderr.receive_some(4096)
            raise RuntimeFailure(f"start the container: {errors.decode(errors='replace').strip()}")
    if not answer:
        raise RuntimeFailure(f"start the container: its first process has not answered for {START_TIMEOUT:.0f} s")


@contextmanager
def _namespaces(pid: int, netns_fd: int) -> Iterator[dict[str, int]]:
    """Opens the namespaces of `pid`. The descriptors stay valid if the pid is reused."""
    with ExitStack() as stack:
        fds: dict[str, int] = {}
        for name in NAMESPACES:
            try:
                fds[name] = os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise RuntimeFailure(f"enter the container: it has ended ({error.strerror})") from error
            stack.callback(os.close, fds[name])
        if not os.path.samestat(os.fstat(fds["net"]), os.fstat(netns_fd)):
            raise RuntimeFailure("enter the container: it has ended")
        yield fds


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if ENVIRONMENT.fullmatch(name)}
