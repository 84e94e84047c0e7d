"""The podman runtime: runs an image with runc. The rules hold before its first instruction.

`podman init` makes the namespaces without running a process; then the network is attached; then the image's command
starts. A container whose owner was killed is removed when the next one opens.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import trio

from pyinterceptor.errors import RuntimeFailure
from pyinterceptor.paths import RESOLV_CONF
from pyinterceptor.runtime.hostname import hostname
from pyinterceptor.runtime.process import Running, Started, Stream, split, start_process
from pyinterceptor.runtime.runtime import NAMESERVER, STOP_DEADLINE, Attach
from pyinterceptor.runtime.seccomp import narrow

ENDED = "the container has ended, because its image's own command has ended"
PODMAN = ("podman", "--runtime", "runc")
PREFIX = "pyinterceptor-"
OWNER = "pyinterceptor.owner"  # label: pid and start time of the process that made the container
STOP_SECONDS = "2"  # between SIGTERM and SIGKILL
# Podman's defaults can exceed the limits of the machine; runc would fail then.
LIMITS = ("--ulimit", "nofile=1024:20000", "--ulimit", "nproc=1000:1000")
# Capabilities that package managers and services need as root inside. For the network they allow low ports alone.
CAPABILITIES = "chown,dac_override,fowner,fsetid,kill,net_bind_service,setgid,setuid,sys_chroot"
PROFILE = Path("/usr/share/containers/seccomp.json")  # podman's default profile


class PodmanRuntime:
    """A podman container, made by `open_podman_container`. Its commands end with it."""

    def __init__(self, identifier: str) -> None:
        self._identifier = identifier
        self._started = Started()
        self._stopped = False
        self._why_stopped = "the container is stopped"
        self.pid = 0  # host pid of its first process
        self.first: int | None = None  # pidfd of that process, borrowed

    @property
    def has_ended(self) -> bool:
        """Whether it was stopped, or the image's own command has ended. All other processes end with that one."""
        return self._stopped or (self.first is not None and bool(select.select([self.first], [], [], 0)[0]))

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
        return self._started.add(await start_process(command, stdin=stdin, stdout=stdout, stderr=stderr))

    async def start_inherited(
        self, words: list[str], env: Mapping[str, str] | None, prefix: Sequence[str]
    ) -> Running:
        """Starts a command on our own streams, with a terminal inside if we have one."""
        terminal = ["--tty"] if os.isatty(0) and os.isatty(1) else []
        return await start_process([*prefix, *self._exec(terminal, words, env)], process_group=0)

    async def stop(self) -> None:
        """Stops and removes the container. A second call does nothing."""
        if self._stopped:
            return
        self._stopped = True
        seconds = STOP_SECONDS if _heeds_sigterm(self.pid) else "0"
        with trio.move_on_after(STOP_DEADLINE, shield=True) as scope:
            await _podman("rm", "--force", "--ignore", "--time", seconds, self._identifier)
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
) -> AsyncIterator[PodmanRuntime]:
    """Opens a container of `image`, which runs the image's own command with an open standard input.

    `attach(netns_fd)` is called before any process inside runs. `user` is a user of the image (default: the one that
    the image names).

    Raises RuntimeFailure, and the errors of `attach`.
    """
    if shutil.which("podman") is None or shutil.which("runc") is None:
        raise RuntimeFailure("start a podman container: podman or runc is missing; run: apt install podman runc")
    await _remove_leftovers()
    async with AsyncExitStack() as stack:
        identifier = f"{PREFIX}{hostname(name)}-{secrets.token_hex(4)}"
        directory = _scratch(identifier)
        directory.mkdir(mode=0o700)
        stack.callback(shutil.rmtree, directory)
        runtime = PodmanRuntime(identifier)
        stack.push_async_callback(runtime.stop)
        options = [*_confinement(directory), "--hostname", hostname(name), *_network(directory, nameserver)]
        options += ["--name", identifier, "--label", f"{OWNER}={_mark(os.getpid())}"]
        options += [] if user is None else ["--user", user]
        await _have_image(image)
        await _podman("create", "--interactive", *options, image)
        await _podman("init", identifier)
        runtime.pid = int(await _podman("inspect", "--format", "{{.State.Pid}}", identifier))
        runtime.first, netns_fd = stack.enter_context(_first_process(runtime.pid))
        await attach(netns_fd)
        await _podman("start", identifier)
        yield runtime


async def _have_image(image: str) -> None:
    """Pulls the image unless it is present. Raises RuntimeFailure."""
    try:
        await _podman("image", "exists", image)
    except RuntimeFailure:
        try:
            await _podman("pull", "--quiet", image)
        except RuntimeFailure as error:
            raise RuntimeFailure(f"image {image!r} is not on this machine and can't be pulled: {error}") from error


def _confinement(directory: Path) -> Iterator[str]:
    """Yields the options that narrow podman's default confinement."""
    yield from (*LIMITS, "--cap-drop=all", f"--cap-add={CAPABILITIES}", "--security-opt=no-new-privileges")
    try:
        profile = json.loads(PROFILE.read_text())
    except OSError as error:
        remedy = "run: apt install golang-github-containers-common"
        raise RuntimeFailure(f"start a podman container: read {PROFILE}: {error.strerror}; {remedy}") from error
    narrowed = directory / "seccomp.json"
    narrowed.write_text(json.dumps(narrow(profile)))
    yield f"--security-opt=seccomp={narrowed}"


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
    """Removes the podman containers of owners that no longer exist."""
    form = '{{.Names}} {{index .Labels "' + OWNER + '"}}'
    listed = await _podman("ps", "--all", "--filter", f"label={OWNER}", "--format", form)
    for line in listed.splitlines():
        identifier, owner = line.split(" ", 1)
        if identifier.startswith(PREFIX) and _mark(int(owner.partition("-")[0])) != owner:
            await _podman("rm", "--force", "--ignore", "--time", "0", identifier)
            shutil.rmtree(_scratch(identifier), ignore_errors=True)


def _scratch(identifier: str) -> Path:
    """Returns the directory of a container's seccomp profile and resolv.conf."""
    return Path(tempfile.gettempdir(), identifier)


def _heeds_sigterm(pid: int) -> bool:
    """Whether the process handles SIGTERM. Process 1 of a PID namespace gets only signals that it handles."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = int(status.split("SigCgt:")[1].split()[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def _mark(pid: int) -> str:
    """Returns the pid with its start time (proc(5), stat field 22), by which a reused pid differs."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return f"{pid}-{fields[19]}"


async def _podman(*arguments: str) -> str:
    """Runs podman to its end; returns its output. Raises RuntimeFailure with the last line of podman's errors."""
    pipe = subprocess.PIPE
    command = [*PODMAN, *arguments]
    running = await start_process(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)
    finished = await running.finish(None)
    if finished.returncode != 0:
        lines = finished.stderr.decode(errors="replace").strip().splitlines() or ["it failed without a message"]
        raise RuntimeFailure(f"podman {arguments[0]}: {lines[-1].removeprefix('Error: ')}")
    return finished.text.strip()
