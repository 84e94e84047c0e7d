"""The interface of the runtimes, and the operations that they share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Protocol

from pyinterceptor.errors import RuntimeFailure
from pyinterceptor.policy.limits import Limits
from pyinterceptor.runtime.files import Files
from pyinterceptor.runtime.process import CommandNotRun, Finished, Running, Stream, split
from pyinterceptor.runtime.terminal import supervise

STOP_DEADLINE = 30.0  # seconds
NAMESERVER = "169.254.1.1"  # in every container's resolv.conf; DNS is answered on any address

Attach = Callable[[int], Awaitable[None]]


class Life(Protocol):
    """The thing whose end is the container's: its processes, or a foreign network namespace."""

    @property
    def has_ended(self) -> bool:
        """Whether it was stopped, or has ended by itself."""

    async def wait_until_ended(self) -> None:
        """Returns once it has ended by itself. Only one task may wait."""

    async def stop(self) -> None:
        """Ends it, even if this call is cancelled. A second call does nothing.

        Raises RuntimeFailure if it has not ended in STOP_DEADLINE.
        """


class Runtime(Life, Protocol):
    """One container's processes. `pid` is the host pid of the first; the container ends when it does."""

    @property
    def pid(self) -> int: ...

    @property
    def user(self) -> str:
        """The user that commands run as, by name or number."""

    def runs_as(self, user: str) -> bool:
        """Whether this is another name or number of that user. Raises RuntimeFailure if no user has this name."""

    async def start(
        self,
        argv: str | Sequence[str],
        *,
        stdin: Stream = subprocess.DEVNULL,
        stdout: Stream = subprocess.DEVNULL,
        stderr: Stream = subprocess.DEVNULL,
        env: Mapping[str, str] | None = None,
    ) -> Running:
        """Starts a command in a session of its own. It ends with the container at the latest.

        Raises CommandNotRun, RuntimeFailure.
        """

    async def start_inherited(
        self, words: list[str], env: Mapping[str, str] | None, prefix: Sequence[str]
    ) -> Running:
        """Starts a command on our own streams, in a process group of its own. `prefix` precedes its words.

        Raises as `start` does.
        """


class OpenRuntime(Protocol):
    """Starts a container's first process in a network namespace, after `attach` was called with that namespace.

    `image` is None for the embedded runtime, which alone uses `files`. If `replaced`, the image's own command isn't
    run. The processes have ended when the block ends.
    """

    def __call__(
        self,
        *,
        image: str | None,
        name: str,
        user: str | None,
        files: Files,
        limits: Limits,
        attach: Attach,
        replaced: bool = False,
    ) -> AbstractAsyncContextManager[Runtime]: ...


async def execute(
    runtime: Runtime,
    argv: str | Sequence[str],
    *,
    input: bytes | None = None,
    env: Mapping[str, str] | None = None,
    check: bool = False,
) -> Finished:
    """Runs a command to its end; a string is split as a shell would.

    Returns code 127 and a sentence on stderr if the command does not exist, 126 if it can't be executed.
    Raises RuntimeFailure if the container has ended, or if `check` and the exit code isn't 0.
    """
    words, pipe = split(argv), subprocess.PIPE
    try:
        running = await runtime.start(words, stdin=pipe, stdout=pipe, stderr=pipe, env=env)
    except CommandNotRun as error:
        finished = Finished(error.code, b"", f"{error}\n".encode())
    else:
        finished = await running.finish(input)
    if check and finished.returncode != 0:
        complaint = finished.stderr.decode(errors="replace").strip()
        raise RuntimeFailure(f"run {words[0]}: exit code {finished.returncode}: {complaint}")
    return finished


async def run_inherited(
    runtime: Runtime, argv: str | Sequence[str], *, env: Mapping[str, str] | None = None
) -> int:
    """Runs a command on our own streams, terminal and signals; returns its exit code, 128+n if signal n ended it.

    Call it on the main thread. Raises RuntimeFailure if the container has ended.
    """
    try:
        return await supervise(partial(runtime.start_inherited, split(argv), env))
    except CommandNotRun as error:
        print(f"pyinterceptor: {error}", file=sys.stderr)
        return error.code
