"""A running container, as `get_container` and `attach` return it: commands inside, and its end."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

from pyinterceptor.runtime.process import Finished, Running, Stream
from pyinterceptor.runtime.runtime import Runtime, execute, run_inherited
from pyinterceptor.serving.run import GRACE, Run


class ContainerHandle:
    """A running container; returned by `Interceptor.get_container`. Each start has a handle of its own."""

    def __init__(self, run: Run, runtime: Runtime) -> None:
        self._run = run
        self._runtime = runtime

    @property
    def has_ended(self) -> bool:
        """Whether it was stopped, or its first process has ended. `get_container` starts it anew then."""
        return self._run.has_ended

    @property
    def pid(self) -> int:
        """Host pid of the container's first process; the container ends when it does."""
        return self._runtime.pid

    async def exec(
        self,
        argv: str | Sequence[str],
        *,
        input: bytes | None = None,
        env: Mapping[str, str] | None = None,
        check: bool = False,
    ) -> Finished:
        """Runs a command to its end inside; a string is split as a shell would, without expansion.

        Returns a `Finished`: returncode (128+n if signal n ended it), stdout, stderr (bytes). A command that isn't
        there has the returncode 127, one that can't be executed 126. `input` is its standard input, `env` adds to
        its variables. A cancelled call kills the command and its descendants. The call returns when the
        command ends. Processes that it left running go on, and their output is discarded; in an image their next write
        to it fails.

        Raises RuntimeFailure if the container has ended, or if `check` and the returncode isn't 0.
        """
        return await execute(self._runtime, argv, input=input, env=env, check=check)

    async def start(
        self,
        argv: str | Sequence[str],
        *,
        stdin: Stream = subprocess.DEVNULL,
        stdout: Stream = subprocess.DEVNULL,
        stderr: Stream = subprocess.DEVNULL,
        env: Mapping[str, str] | None = None,
    ) -> Running:
        """Starts a long-lived command inside; returns it running.

        With `subprocess.PIPE`, its streams are Trio's: `running.stdout.receive_some()`. It ends with the container if
        not before.

        Raises CommandNotRun, a RuntimeFailure, if the command isn't there; RuntimeFailure if the container has ended.
        """
        return await self._runtime.start(argv, stdin=stdin, stdout=stdout, stderr=stderr, env=env)

    async def run_inherited(self, argv: str | Sequence[str], *, env: Mapping[str, str] | None = None) -> int:
        """Runs a command on our own streams, terminal and signals, as a shell would in the foreground.

        Returns its exit code (128+n if signal n ended it). For the main thread.

        Raises RuntimeFailure if the container has ended.
        """
        return await run_inherited(self._runtime, argv, env=env)

    async def stop(self, *, grace: float = GRACE) -> None:
        """Stops the container; returns when nothing of it is left. Does nothing once it has ended.

        Its processes end at once. Handlers that run may go on for `grace` seconds (5 unless given), and bytes that the
        processes have sent are forwarded, to a slow server as well; then handlers are cancelled, flows are reset and
        connections of `fetch()` closed.
        `grace=0` does all of this at once. A second call can only shorten the grace. Cancelling this call ends the
        grace, and the call still waits for the end. A handler of this container that calls it is cancelled with the
        others.

        Raises RuntimeFailure if its processes can't be ended; the container is cut off and counts as ended even so.
        TypeError or ValueError if `grace` is no number of seconds from 0 on.
        """
        await self._run.stop(_checked(grace))


class NamespaceHandle:
    """A container whose network namespace somebody else made; returned by `Interceptor.attach`.

    Its processes are the namespace's own, and run whether it is attached or not.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    @property
    def has_ended(self) -> bool:
        """Whether it was detached, or its namespace no longer exists."""
        return self._run.has_ended

    async def stop(self, *, grace: float = GRACE) -> None:
        """Detaches the namespace, which has no way out then; returns when nothing of the container is left here.

        Handlers that run, and flows whose bytes still move, have `grace` seconds, as in `ContainerHandle.stop`.
        """
        await self._run.stop(_checked(grace))


def _checked(grace: float) -> float:
    if isinstance(grace, bool) or not isinstance(grace, int | float):
        raise TypeError(f"stop(grace=…) takes seconds, not {grace!r}")
    if not grace >= 0:
        raise ValueError(f"stop(grace={grace}): the grace can't be negative")
    return grace
