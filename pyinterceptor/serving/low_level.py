"""`self.ctx.container`: the container itself, for its instance. It starts, stops and intercepts.

`start` and the calls that intercept take effect when they are called. Their result may be awaited, and then raises
their error; an error that nobody awaits is logged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import trio

from pyinterceptor.app.entrypoint import Connecting, Fetching, connecting, fetching
from pyinterceptor.errors import InterceptorError, RuntimeFailure
from pyinterceptor.policy.patterns import canonical_pattern
from pyinterceptor.runtime.process import Finished

if TYPE_CHECKING:
    from pyinterceptor.serving.container import Identity

GRACE = 5.0  # seconds that handlers may go on after stop()

log = logging.getLogger("pyinterceptor")


class Effect:
    """The result of a call that has taken effect. `await` waits until it is complete, and raises its error."""

    def __init__(self, call: str) -> None:
        self._call = call
        self._is_complete = trio.Event()
        self._error: BaseException | None = None
        self._was_awaited = False

    def complete(self, error: BaseException | None = None) -> None:
        """Completes the call."""
        # Without its traceback, whose frames hold this object: it must be freed as soon as nobody has it.
        self._error = None if error is None else error.with_traceback(None)
        self._is_complete.set()

    def __await__(self) -> Generator[Any, Any, None]:
        self._was_awaited = True
        yield from self._is_complete.wait().__await__()
        if self._error is not None:
            raise self._error

    def __del__(self) -> None:
        if self._error is not None and not self._was_awaited:
            log.error("%s: %s", self._call, self._error)


class Controlling(Protocol):
    """The interceptor, as `self.ctx.container` sees it."""

    def start_soon(self, identity: Identity, entrypoint: Sequence[str] | None, env: Any, effect: Effect) -> None:
        """Starts the container; completes the effect."""

    def renew_now(self, identity: Identity) -> None:
        """Puts the identity's overrides in force. Raises PolicyError; then nothing has changed."""


class ContainerControl:
    """`self.ctx.container` of a container's instance."""

    def __init__(self, identity: Identity, serving: Controlling) -> None:
        self._identity = identity
        self._serving = serving

    @property
    def running(self) -> bool:
        """Whether the container runs."""
        return self._identity.run is not None and not self._identity.run.has_ended

    def start(
        self,
        *,
        enable_internet: bool = False,
        entrypoint: str | Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Effect:
        """Starts the container. `enable_internet` governs until it stops, instead of the class's setting.

        `entrypoint` is a command that runs inside with the variables `env`; the container ends when it does.

        The error is RuntimeFailure if the container runs already or can't be started; PolicyError for a wrong type.
        """
        effect = Effect(f"{self._identity}: start")
        if self.running or self._identity.begun is not None:
            effect.complete(RuntimeFailure(f"start {self._identity}: it runs already"))
        elif not isinstance(enable_internet, bool):
            effect.complete(TypeError(f"start(enable_internet=…) takes True or False, not {enable_internet!r}"))
        elif env is not None and entrypoint is None:
            effect.complete(TypeError("start(env=…) are the variables of an entrypoint; give one"))
        else:
            self._identity.overrides = replace(self._identity.overrides, internet=enable_internet)
            self._identity.begun = effect
            self._serving.start_soon(self._identity, entrypoint, env, effect)
        return effect

    async def exec(self, argv: str | Sequence[str], **options: Any) -> Finished:
        """Runs a command to its end inside, as `ContainerHandle.exec`, after a start that goes on."""
        await self._started()
        return await self._identity.stub.exec(argv, **options)

    async def stop(self, *, grace: float = GRACE) -> None:
        """Stops the container, as `ContainerHandle.stop`."""
        await self._identity.stub.stop(grace=grace)

    def signal(self, number: int) -> None:
        """Sends a signal to the entrypoint's process. Raises RuntimeFailure if none runs."""
        run = self._identity.run
        if run is None or run.entrypoint is None:
            raise RuntimeFailure(f"signal {self._identity}: no entrypoint runs")
        run.entrypoint.send_signal(number)

    async def monitor(self) -> None:
        """Waits until the container has ended.

        Raises RuntimeFailure if it doesn't run, has failed, or if its entrypoint's exit code isn't 0.
        """
        await self._started()
        run = self._identity.run
        if run is None:
            raise RuntimeFailure(f"monitor {self._identity}: it does not run")
        await run.gone.wait()
        if run.failure is not None:
            raise RuntimeFailure(f"monitor {self._identity}: {run.failure}") from run.failure
        if run.exit_code != 0:
            raise RuntimeFailure(f"monitor {self._identity}: it ended with exit code {run.exit_code}")

    def intercept_outbound_http(self, pattern: str, worker: Any) -> Effect:
        """Gives a worker the requests to a host, glob, address or network, before all other rules of the container.

        Rows are looked at in the order in which they were registered. Registering a pattern again replaces its worker
        in place. They last until the run ends.

        The error is PolicyError for a bad pattern, or if the worker has no `fetch`.
        """
        call = f"intercept_outbound_http({pattern!r}, …)"
        return self._changed(call, lambda: self._with(canonical_pattern(pattern), fetching(worker)))

    def intercept_all_outbound_http(self, worker: Any) -> Effect:
        """Gives a worker every request that no other pattern of `intercept_outbound_http` matches."""
        return self._changed("intercept_all_outbound_http(…)", lambda: self._with(None, fetching(worker)))

    def intercept_outbound_tcp(self, pattern: str, worker: Any) -> Effect:
        """Gives a worker's `connect(stream)` the connections to a host, glob, address or network.

        Rows are in one order with those of `intercept_outbound_http`. A connection is given before its client has sent
        anything, unless an earlier row could take a request on it: then the client's first bytes are awaited.

        The error is PolicyError for a bad pattern, or if the worker has no `connect`.
        """
        call = f"intercept_outbound_tcp({pattern!r}, …)"
        return self._changed(call, lambda: self._with(canonical_pattern(pattern), connecting(worker)))

    def list_intercepts(self) -> list[tuple[str | None, Any]]:
        """Returns the patterns and their workers in order. The pattern for all requests is None."""
        return [(pattern, target.worker) for pattern, target in self._identity.overrides.intercepts]

    def remove_intercept(self, pattern: str | None) -> Effect:
        """Removes a pattern, or the row for all requests (None), if it is registered."""

        def without() -> tuple[Any, ...]:
            gone = None if pattern is None else canonical_pattern(pattern)
            return tuple(row for row in self._identity.overrides.intercepts if row[0] != gone)

        return self._changed(f"remove_intercept({pattern!r})", without)

    async def _started(self) -> None:
        """Waits for a start that goes on. Raises its error."""
        if self._identity.begun is not None:
            await self._identity.begun

    def _with(self, pattern: str | None, target: Fetching | Connecting) -> tuple[Any, ...]:
        # A pattern that is there keeps its place. It may stand once for requests and once for connections.
        rows = {(row[0], row[1].is_stream): row for row in self._identity.overrides.intercepts}
        rows[pattern, target.is_stream] = pattern, target
        return tuple(rows.values())

    def _changed(self, call: str, change: Callable[[], tuple[Any, ...]]) -> Effect:
        effect = Effect(f"{self._identity}: {call}")
        before = self._identity.overrides
        try:
            self._identity.overrides = replace(before, intercepts=change())
            self._serving.renew_now(self._identity)
        except InterceptorError as error:
            self._identity.overrides = before
            effect.complete(error)
        else:
            effect.complete()
        return effect
