"""A container as `get_container` and `attach` return it: commands inside, calls of its methods, its rules, its end."""

from __future__ import annotations

import inspect
import subprocess
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pyinterceptor.app.at_run_time import Edit, RulesAtRunTime
from pyinterceptor.app.container import Container
from pyinterceptor.app.copies import copy_of
from pyinterceptor.arguments import check_each
from pyinterceptor.errors import RuntimeFailure
from pyinterceptor.runtime.files import working_in
from pyinterceptor.runtime.process import Finished, Running, Stream, check_environment, check_stream, split
from pyinterceptor.runtime.runtime import execute, run_inherited
from pyinterceptor.serving.container import Identity, Serving
from pyinterceptor.serving.low_level import GRACE
from pyinterceptor.serving.run import Run
from pyinterceptor.serving.start import ASKED, Asked

HOOKS = {"on_start", "on_stop"}


class ContainerHandle(RulesAtRunTime):
    """The stub of a container, which lasts as long as the interceptor; returned by `Interceptor.get_container`.

    Its methods, and the class's own, can be called whether the container runs or not. The arguments and results of the
    class's own are copied: JSON values, bytes, datetimes and sets; requests, responses and streams are passed on.
    """

    def __init__(self, identity: Identity, serving: Serving) -> None:
        self._identity = identity
        self._serving = serving

    def __await__(self) -> Generator[Any, Any, ContainerHandle]:
        return self
        yield

    def __repr__(self) -> str:
        return f"<ContainerHandle {self._identity}>"

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        """Returns a method of the class's own."""
        if name not in methods_of(self._identity.cls):
            own = sorted(methods_of(self._identity.cls))
            listed = f"its methods: {', '.join(own)}" if own else "it has no methods of its own"
            raise AttributeError(f"{self._identity.cls.__name__} has no method {name!r}; {listed}")
        return partial(self._call, name)

    async def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        where = f"{self._identity.cls.__name__}.{name}"
        args = copy_of(args, f"{where}: arguments")
        kwargs = copy_of(kwargs, f"{where}: arguments")
        result = getattr(self._identity.instance, name)(*args, **kwargs)
        return copy_of(await result if hasattr(result, "__await__") else result, f"{where}: result")

    async def _change(self, edit: Edit) -> None:
        await self._serving.change(self._identity, edit)

    @property
    def has_ended(self) -> bool:
        """Whether it doesn't run: it was never started, was stopped, or its first process has ended."""
        return self._identity.run is None or self._identity.run.has_ended

    @property
    def pid(self) -> int:
        """Host pid of the container's first process; the container ends when it does. RuntimeFailure if it has none."""
        run = self._identity.run
        if run is None or run.has_ended:
            raise RuntimeFailure(f"{self._identity} does not run")
        return run.runtime.pid

    async def exec(
        self,
        argv: str | Sequence[str],
        *,
        input: bytes | None = None,
        env: Mapping[str, str] | None = None,
        check: bool = False,
    ) -> Finished:
        """Runs a command to its end inside; a string is split as a shell would, without expansion.

        Starts the container if it does not run.

        Returns a `Finished`: returncode (128+n if signal n ended it), stdout, stderr (bytes). A command that isn't
        there has the returncode 127, one that can't be executed 126. `input` is its standard input, `env` adds to
        its variables. A cancelled call kills the command and its descendants. The call returns when the
        command ends. Processes that it left running go on, and their output is discarded; in an image their next write
        to it fails.

        Raises RuntimeFailure if the container ends meanwhile, or if `check` and the returncode isn't 0; TypeError or
        ValueError for arguments that no command can have, as `start` and `run_inherited` do.
        """
        if not (input is None or isinstance(input, bytes | bytearray | memoryview)):
            raise TypeError(f"a command's input is bytes, not {input!r}")
        words = split(argv)
        check_environment(env)
        return await execute((await self._started()).runtime, words, input=input, env=env, check=check)

    async def start(
        self,
        argv: str | Sequence[str] | None = None,
        *,
        stdin: Stream = subprocess.DEVNULL,
        stdout: Stream = subprocess.DEVNULL,
        stderr: Stream = subprocess.DEVNULL,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        workdir: str | Path | None = None,
    ) -> Running:
        """Starts the container if it does not run, and a long-lived command inside; returns the command running.

        Without a command, the container alone is started, and the result is None. `user` and `workdir` are as in
        `Interceptor.get_container`.

        With `subprocess.PIPE`, its streams are Trio's: `running.stdout.receive_some()`. It ends with the container if
        not before.

        Raises CommandNotRun, a RuntimeFailure, if the command isn't there; RuntimeFailure if the container can't be
        started, or runs with another user or working directory.
        """
        words = None if argv is None else split(argv)
        check_each("start", ASKED, user=user, workdir=workdir)
        for argument, stream in (("stdin", stdin), ("stdout", stdout), ("stderr", stderr)):
            check_stream(stream, argument)
        check_environment(env)
        run = await self._started(Asked(None, user, None if workdir is None else working_in(workdir)))
        if words is None:
            return None  # type: ignore[return-value]  # the overloads of a method can't be given to the faces
        return await run.runtime.start(words, stdin=stdin, stdout=stdout, stderr=stderr, env=env)

    async def run_inherited(self, argv: str | Sequence[str], *, env: Mapping[str, str] | None = None) -> int:
        """Runs a command on our own streams, terminal and signals, as a shell would in the foreground.

        Starts the container if it does not run. Returns the command's exit code (128+n if signal n ended it). For the
        main thread.

        Raises RuntimeFailure if the container ends meanwhile.
        """
        words = split(argv)
        check_environment(env)
        return await run_inherited((await self._started()).runtime, words, env=env)

    async def stop(self, *, grace: float = GRACE) -> None:
        """Stops the container; returns when nothing of it is left. Does nothing if it doesn't run.

        Its processes end at once. Handlers that run may go on for `grace` seconds (5 unless given), and bytes that the
        processes have sent are forwarded, to a slow server as well; then handlers are cancelled, flows are reset and
        connections of `fetch()` closed.
        `grace=0` does all of this at once. A second call can only shorten the grace. Cancelling this call ends the
        grace, and the call still waits for the end. A handler of this container that calls it is cancelled with the
        others.

        Raises RuntimeFailure if its processes can't be ended; the container is cut off and counts as ended even so.
        TypeError or ValueError if `grace` is no number of seconds from 0 on.
        """
        grace = _checked(grace)
        if self._identity.run is not None:
            await self._identity.run.stop(grace)

    async def _started(self, asked: Asked | None = None) -> Run:
        run = await self._serving.started(self._identity, asked)
        if run.start is None:
            raise RuntimeFailure(f"start {self._identity}: it is attached to a foreign namespace; stop it first")
        return run


def methods_of(cls: type[Container]) -> set[str]:
    """Returns the names of the class's own methods, which can be called on a stub."""
    names = {name for base in cls.__mro__ if base not in Container.__mro__ for name in vars(base)}
    return {name for name in names - HOOKS if not name.startswith("_") and inspect.isroutine(getattr(cls, name, None))}


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
