"""The podman runtime: runs an image with runc. The rules hold before its first instruction.

`podman init` makes the namespaces without running a process; then the network is attached; then the first process
starts: the image's own command, or one that only waits if the image has none or another command replaces it. Root
inside has a range of uids of its own outside, so that limits that the kernel counts by uid aren't shared. A container
whose owner was killed is removed when the next one opens.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import trio

from pyinterceptor.errors import RuntimeFailure
from pyinterceptor.paths import RESOLV_CONF
from pyinterceptor.policy.limits import PIDS, Limits
from pyinterceptor.runtime.cgroups import enforceable, find_places
from pyinterceptor.runtime.hostname import hostname
from pyinterceptor.runtime.namespaces import CLONE_NEWTIME, unshare
from pyinterceptor.runtime.process import Own, Running, Started, Stream, has_exited, split, start_process
from pyinterceptor.runtime.runtime import NAMESERVER, STOP_DEADLINE, Attach
from pyinterceptor.runtime.seccomp import narrow
from pyinterceptor.runtime.slots import UIDS, Slot, left_slots, open_slot, without_owner

ENDED = "the container has ended, because its image's own command has ended"
PODMAN = ("podman", "--runtime", "runc")
IDLE = "catatonit"  # a static program that waits as process 1 and reaps orphans
IDLE_INSIDE = "/run/catatonit"
PREFIX = "pyinterceptor-"
SLOT = "pyinterceptor.slot"  # label: the number of the container's slot, which its owner holds locked
STOP_SECONDS = "2"  # between SIGTERM and SIGKILL
# Podman's defaults can exceed the limits of the machine; runc would fail then. setrlimit(2)
FILES = "nofile=1024:20000"
# Capabilities that package managers and services need as root inside. For the network they allow low ports alone.
CAPABILITIES = "chown,dac_override,fowner,fsetid,kill,net_bind_service,setgid,setuid,sys_chroot"
PROFILE = Path("/usr/share/containers/seccomp.json")  # podman's default profile


class PodmanRuntime:
    """A podman container, made by `open_podman_container`. Its commands end with it."""

    def __init__(self, identifier: str, user: str, entrypoint: Sequence[str], directory: Path) -> None:
        self.user = user or "root"  # of the image
        self._identifier = identifier
        self._directory = directory  # of podman exec, whose conmon makes a file there when memory is full
        self._entrypoint = entrypoint  # precedes a command that replaces the image's own
        self._started = Started()
        self._stopped = False
        self._why_stopped = "the container is stopped"
        self.pid = 0  # host pid of its first process
        self.first: int | None = None  # pidfd of that process, borrowed

    def runs_as(self, user: str) -> bool:
        """Whether the user is the same text, or both are root."""
        return user == self.user or (":" not in user + self.user and _is_root(user) and _is_root(self.user))

    @property
    def has_ended(self) -> bool:
        """Whether it was stopped, or the image's own command has ended. All other processes end with that one."""
        return self._stopped or (self.first is not None and has_exited(self.first))

    async def wait_until_ended(self) -> None:
        """Returns once the image's own command has ended."""
        assert self.first is not None
        await trio.lowlevel.wait_readable(self.first)
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
        """Starts a command; returns its `podman exec`. `env` adds to the image's variables."""
        command = self._exec([], split(argv), env)
        options: dict[str, Any] = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
        # With `user`, Popen calls fork(2): a child of vfork(2) would not get the time namespace before Linux 6.1.
        options |= {"cwd": self._directory, "user": os.geteuid()}
        return self._started.add(await start_process(command, enter=_time_namespace, **options))

    async def start_inherited(
        self, words: list[str], env: Mapping[str, str] | None, prefix: Sequence[str]
    ) -> Running:
        """Starts a command on our own streams, with a terminal inside if we have one.

        The image's entrypoint precedes it if the command replaces the image's own, as in podman-run(1).
        """
        terminal = ["--tty"] if os.isatty(0) and os.isatty(1) else []
        command = self._exec(terminal, [*self._entrypoint, *words], env)
        return await start_process([*prefix, *command], process_group=0, cwd=self._directory)

    async def stop(self) -> None:
        """Stops and removes the container. A second call does nothing."""
        if self._stopped:
            return
        self._stopped = True
        seconds = STOP_SECONDS if _heeds_sigterm(self.pid) else "0"
        with trio.move_on_after(STOP_DEADLINE, shield=True) as scope:
            await _remove(seconds, self._identifier)
            await self._started.reap()
        if scope.cancelled_caught:
            raise RuntimeFailure(f"stop the podman container: it has not ended in {STOP_DEADLINE:.0f} s")

    def _why(self) -> str:
        return self._why_stopped if self._stopped else ENDED

    def _exec(self, options: list[str], words: list[str], env: Mapping[str, str] | None) -> list[str]:
        if self.has_ended:
            raise RuntimeFailure(f"run {words[0]}: {self._why()}")
        variables = [f"--env={name}={value}" for name, value in (env or {}).items()]
        return [*PODMAN, "exec", "--interactive", *options, *variables, self._identifier, *words]


@asynccontextmanager
async def open_podman_container(
    *,
    image: str,
    name: str,
    attach: Attach,
    nameserver: str = NAMESERVER,
    user: str | None = None,
    limits: Limits | None = None,
    replaced: bool = False,
) -> AsyncIterator[PodmanRuntime]:
    """Opens a container of `image`, which runs the image's own command, if it has one, with an open standard input.

    `attach(netns_fd)` is called before any process inside runs. `user` is a user of the image (default: the one that
    the image names). `limits` (default: those of Limits()) hold for all processes together.
    `replaced`: a later command replaces the image's own, which isn't run.

    Raises RuntimeFailure, and the errors of `attach`.
    """
    if shutil.which("podman") is None or shutil.which("runc") is None:
        remedy = "run: apt install podman runc catatonit"
        raise RuntimeFailure(f"start a podman container: podman or runc is missing; {remedy}")
    await _remove_leftovers()
    async with AsyncExitStack() as stack:
        identifier = f"{PREFIX}{hostname(name)}-{secrets.token_hex(4)}"
        slot = stack.enter_context(open_slot())
        await _have_image(image)
        config = json.loads(await _podman("image", "inspect", "--format", "{{json .Config}}", image))
        entrypoint, command = config.get("Entrypoint") or [], config.get("Cmd") or []
        user = config.get("User", "") if user is None else user
        runtime = PodmanRuntime(identifier, user, entrypoint if replaced else [], slot.directory)
        stack.push_async_callback(runtime.stop)
        identity = _identity(user)
        options = [*_confinement(slot), *_limits(limits or Limits()), *identity, *_network(slot.directory, nameserver)]
        options += [] if (entrypoint or command) and not replaced else _idle()
        options += ["--hostname", hostname(name), "--name", identifier, "--label", f"{SLOT}={slot.number}"]
        await _podman("create", "--interactive", *options, image)
        await _podman("init", identifier)
        runtime.pid = int(await _podman("inspect", "--format", "{{.State.Pid}}", identifier))
        runtime.first, netns_fd = stack.enter_context(_first_process(runtime.pid))
        await attach(netns_fd)
        await _podman("start", identifier)
        yield runtime


def _time_namespace() -> Own | None:
    """Makes a time namespace, with the host's time, for the children of the calling thread: time_namespaces(7).

    A command's descendants are known by it, since no process of the container can leave it. None if it can't be made.
    """
    try:
        unshare(CLONE_NEWTIME)
    except OSError:
        return None
    return Own("time", os.open("/proc/thread-self/ns/time_for_children", os.O_RDONLY | os.O_CLOEXEC))


def _identity(user: str) -> list[str]:
    """Returns the options for a user of the image and its capabilities.

    Podman makes the capabilities of another user ambient, so that each of its programs has them. So they are given to
    uid 0 alone, by its number: an image may call any uid root.
    """
    if not _is_root(user):
        return ["--user", user]
    _, colon, group = user.partition(":")
    return ["--user", f"0{colon}{group}", f"--cap-add={CAPABILITIES}"]


def _is_root(user: str) -> bool:
    name = user.partition(":")[0]
    return name in ("", "root") or (name.isdecimal() and int(name) == 0)


def _idle() -> list[str]:
    """Returns the options by which the first process only waits. Raises RuntimeFailure if its program is missing."""
    program = shutil.which(IDLE)
    if program is None:
        raise RuntimeFailure(f"start a podman container: {IDLE} is missing; run: apt install {IDLE}")
    return ["--volume", f"{program}:{IDLE_INSIDE}:ro", "--entrypoint", json.dumps([IDLE_INSIDE, "-P"])]


async def _have_image(image: str) -> None:
    """Pulls the image unless it is present. Raises RuntimeFailure."""
    try:
        await _podman("image", "exists", image)
    except RuntimeFailure:
        try:
            await _podman("pull", "--quiet", image)
        except RuntimeFailure as error:
            raise RuntimeFailure(f"image {image!r} is not on this machine and can't be pulled: {error}") from error


def _confinement(slot: Slot) -> Iterator[str]:
    """Yields the options that narrow podman's default confinement."""
    yield from ("--ulimit", FILES, "--cap-drop=all", "--security-opt=no-new-privileges")
    yield from (f"--{kind}map=0:{slot.first_uid}:{UIDS}" for kind in ("uid", "gid"))
    try:
        profile = json.loads(PROFILE.read_text())
    except OSError as error:
        remedy = "run: apt install golang-github-containers-common"
        raise RuntimeFailure(f"start a podman container: read {PROFILE}: {error.strerror}; {remedy}") from error
    narrowed = slot.directory / "seccomp.json"
    narrowed.write_text(json.dumps(narrow(profile)))
    yield f"--security-opt=seccomp={narrowed}"


def _limits(limits: Limits) -> Iterator[str]:
    """Yields the options for the limits that the machine can enforce. Raises RuntimeFailure if one isn't and was set.

    The limit of processes counts for each of the container's uids, too, where podman's default may be impossible.
    """
    enforced = enforceable(limits, find_places())
    if enforced.memory is not None:
        yield from (f"--memory={enforced.memory}", f"--memory-swap={enforced.memory}")  # both: no swap is used
    if enforced.cpu is not None:
        yield f"--cpus={enforced.cpu}"
    if enforced.pids is not None:
        yield f"--pids-limit={enforced.pids}"
    pids = PIDS if enforced.pids is None else enforced.pids
    yield f"--ulimit=nproc={pids}:{pids}"
    yield f"--tmpfs=/tmp:size={enforced.tmp},mode=1777,exec"


def _network(directory: Path, nameserver: str) -> Iterator[str]:
    resolv_conf = directory / "resolv.conf"
    resolv_conf.write_text(f"nameserver {nameserver}\n")
    resolv_conf.chmod(0o644)
    yield from ("--network=none", "--volume", f"{resolv_conf}:{RESOLV_CONF}:ro")


@contextmanager
def _first_process(pid: int) -> Iterator[tuple[int, int]]:
    """Opens a pidfd of the process, and its network namespace."""
    with ExitStack() as stack:
        try:
            first = os.pidfd_open(pid)
            stack.callback(os.close, first)
            netns_fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, netns_fd)
        except OSError as error:
            raise RuntimeFailure(f"attach the podman container: it has ended ({error.strerror})") from error
        yield first, netns_fd


async def _remove_leftovers() -> None:
    """Removes the podman containers and files of owners that no longer exist."""
    form = '{{.Names}} {{index .Labels "' + SLOT + '"}}'
    listed = await _podman("ps", "--all", "--filter", f"label={SLOT}", "--format", form)
    slots: dict[int, list[str]] = {number: [] for number in left_slots()}
    for line in listed.splitlines():
        identifier, label = line.split(" ", 1)
        slots.setdefault(int(label), []).append(identifier)
    for number, identifiers in slots.items():
        with without_owner(number) as is_left:
            if is_left and identifiers:
                await _remove("0", *identifiers)


async def _remove(seconds: str, *identifiers: str) -> None:
    """Stops and removes containers. Tries twice: podman can find a mount of a container busy that just ended."""
    words = ("rm", "--force", "--ignore", "--time", seconds, *identifiers)
    try:
        await _podman(*words)
    except RuntimeFailure:
        await _podman(*words)


def _heeds_sigterm(pid: int) -> bool:
    """Whether the process handles SIGTERM. Process 1 of a PID namespace gets only signals that it handles."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = int(status.split("SigCgt:")[1].split()[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


async def _podman(*arguments: str) -> str:
    """Runs podman to its end; returns its output. Raises RuntimeFailure with the last line of podman's errors."""
    pipe = subprocess.PIPE
    command = [*PODMAN, *arguments]
    running = await start_process(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, cwd="/")
    finished = await running.finish(None)
    if finished.returncode != 0:
        lines = finished.stderr.decode(errors="replace").strip().splitlines() or ["it failed without a message"]
        raise RuntimeFailure(f"podman {arguments[0]}: {lines[-1].removeprefix('Error: ')}")
    return finished.text.strip()
