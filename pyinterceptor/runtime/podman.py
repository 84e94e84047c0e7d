"""The podman runtime: an image, run by runc, under the rules from its first instruction.

`podman init` makes the namespaces and runs nothing; then the network is attached; then the image's
command starts. A container whose owner was killed is removed by the next one that opens.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import trio

from pyinterceptor.errors import RuntimeFailure
from pyinterceptor.runtime.netns import hostname
from pyinterceptor.runtime.process import Finished, Running, Stream, split, start_process
from pyinterceptor.runtime.terminal import supervise

OWNER = "pyinterceptor.owner"  # label: pid and start time of the process that made the container
STOP_SECONDS = 2  # between SIGTERM and SIGKILL
CLEANUP_TIMEOUT = 30.0  # seconds
# Podman's own are above what a machine may allow, and then runc fails.
LIMITS = ("--ulimit", "nofile=1024:20000", "--ulimit", "nproc=1000:1000")


class PodmanContainer:
    """Made by `open_podman_container`. Commands end with it."""

    def __init__(self, podman: Sequence[str], identifier: str, pid: int) -> None:
        self._podman = podman
        self._identifier = identifier
        self._stopped = False
        self.pid = pid

    async def exec(
        self,
        argv: str | Sequence[str],
        *,
        input: bytes | None = None,
        env: Mapping[str, str] | None = None,
        check: bool = False,
    ) -> Finished:
        """Runs a command to its end; `env` adds to the image's. 127: not there, 126: can't be executed.

        Raises: RuntimeFailure if `check` and the exit code isn't 0.
        """
        words = split(argv)
        pipe = subprocess.PIPE
        running = await self.start(words, stdin=pipe, stdout=pipe, stderr=pipe, env=env)
        finished = await running.finish(input)
        if check and finished.returncode != 0:
            said = finished.stderr.decode(errors="replace").strip()
            raise RuntimeFailure(f"run {words[0]}: exit code {finished.returncode}: {said}")
        return finished

    async def start(
        self,
        argv: str | Sequence[str],
        *,
        stdin: Stream = subprocess.DEVNULL,
        stdout: Stream = subprocess.DEVNULL,
        stderr: Stream = subprocess.DEVNULL,
        env: Mapping[str, str] | None = None,
    ) -> Running:
        """Starts a command; it is `podman exec` that is returned running. The caller closes it."""
        command = self._exec([], split(argv), env)
        return await start_process(command, stdin=stdin, stdout=stdout, stderr=stderr)

    async def run_inherited(self, argv: str | Sequence[str], *, env: Mapping[str, str] | None = None) -> int:
        """Runs a command on our own streams and terminal; returns its exit code. For the main thread."""
        terminal = ["--tty"] if os.isatty(0) and os.isatty(1) else []
        command = self._exec(terminal, split(argv), env)

        async def start(prefix: Sequence[str]) -> Running:
            return await start_process([*prefix, *command], process_group=0)

        return await supervise(start)

    async def stop(self) -> None:
        """Stops and removes the container. Twice is no error."""
        if self._stopped:
            return
        self._stopped = True
        with trio.CancelScope(deadline=trio.current_time() + CLEANUP_TIMEOUT, shield=True):
            await _podman(self._podman, "rm", "--force", "--time", str(STOP_SECONDS), self._identifier)

    def _exec(self, options: list[str], words: list[str], env: Mapping[str, str] | None) -> list[str]:
        if self._stopped:
            raise RuntimeFailure(f"run {words[0]}: the container is stopped")
        variables = [f"--env={name}={value}" for name, value in (env or {}).items()]
        return [*self._podman, "exec", "--interactive", *options, *variables, self._identifier, *words]


@asynccontextmanager
async def open_podman_container(
    *,
    image: str,
    name: str,
    attach: Callable[[int], Awaitable[object]],
    argv: str | Sequence[str] | None = None,
    nameserver: str = "169.254.1.1",
    podman_options: Sequence[str] = (),
) -> AsyncIterator[PodmanContainer]:
    """A container of `image` running `argv` (default: the image's own command, with an open standard input).

    `attach(netns_fd)` gives its network, before any process of it runs. `podman_options` go before the verb.

    Raises: RuntimeFailure, and what `attach` raises.
    """
    if shutil.which("podman") is None or shutil.which("runc") is None:
        raise RuntimeFailure("start a podman container: podman or runc is missing; apt install podman runc")
    podman = ["podman", "--runtime", "runc", *podman_options]
    await _remove_leftovers(podman)
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pyinterceptor-")))
        resolv_conf = directory / "resolv.conf"
        resolv_conf.write_text(f"nameserver {nameserver}\n")
        resolv_conf.chmod(0o644)
        identifier = f"pyinterceptor-{hostname(name)}-{secrets.token_hex(4)}"
        box = PodmanContainer(podman, identifier, 0)
        stack.push_async_callback(box.stop)
        command = [] if argv is None else split(argv)
        create = ["create", "--interactive", "--network=none", "--pull=missing", "--name", identifier]
        create += ["--hostname", hostname(name)]
        create += [*LIMITS, "--label", f"{OWNER}={_mark(os.getpid())}"]
        create += ["--volume", f"{resolv_conf}:/etc/resolv.conf:ro", image, *command]
        await _podman(podman, *create)
        await _podman(podman, "init", identifier)
        box.pid = int(await _podman(podman, "inspect", "--format", "{{.State.Pid}}", identifier))
        await _attach(box.pid, attach)
        await _podman(podman, "start", identifier)
        yield box


async def _attach(pid: int, attach: Callable[[int], Awaitable[object]]) -> None:
    try:
        netns_fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise RuntimeFailure(f"attach the podman container: it has ended ({error.strerror})") from error
    try:
        await attach(netns_fd)
    finally:
        os.close(netns_fd)


async def _remove_leftovers(podman: Sequence[str]) -> None:
    """Containers of ours whose owner isn't there any more."""
    form = '{{.ID}} {{index .Labels "' + OWNER + '"}}'
    listed = await _podman(podman, "ps", "--all", "--filter", f"label={OWNER}", "--format", form)
    for line in listed.splitlines():
        identifier, owner = line.split(" ", 1)
        if _mark(int(owner.partition("-")[0])) != owner:
            await _podman(podman, "rm", "--force", "--time", "0", identifier)


def _mark(pid: int) -> str:
    """The pid with its start time (proc(5), stat field 22), so that a pid used again is another process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return f"{pid}-{fields[19]}"


async def _podman(podman: Sequence[str], *arguments: str) -> str:
    """Runs podman to its end; returns what it printed. Raises: RuntimeFailure with its own last sentence."""
    pipe = subprocess.PIPE
    command = [*podman, *arguments]
    running = await start_process(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)
    finished = await running.finish(None)
    if finished.returncode != 0:
        said = finished.stderr.decode(errors="replace").strip().splitlines() or ["it failed without a word"]
        raise RuntimeFailure(f"podman {arguments[0]}: {said[-1].removeprefix('Error: ')}")
    return finished.text.strip()
