"""A container's run: all that exists of it from its start to its stop, and the order in which that ends."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from pyinterceptor.capture.capture import Attachment
from pyinterceptor.dns.names import Names, Networks
from pyinterceptor.dns.resolver import Lookups
from pyinterceptor.errors import InterceptorError, RuntimeFailure
from pyinterceptor.http.client import Client
from pyinterceptor.relay.relay import Relay
from pyinterceptor.runtime.runtime import Life
from pyinterceptor.serving.channel import Channel
from pyinterceptor.serving.container import Identity
from pyinterceptor.serving.log import Faults, Log
from pyinterceptor.serving.recording import Questions, Recorder

if TYPE_CHECKING:
    from pyinterceptor.serving.handle import ContainerHandle, NamespaceHandle

log = logging.getLogger("pyinterceptor")

GRACE = 5.0  # seconds that handlers have from stop() on
SETTLE = 0.5  # seconds at most for bytes of ended processes that are still on their way
RESET = 1.0  # seconds at most in which the relay closes the sockets of flows that end
PAUSE = 0.005  # seconds between two looks at the relay's counters


class Run:
    """Made by the interceptor. `nursery` has every task that works for the container."""

    def __init__(
        self,
        identity: Identity,
        attachment: Attachment,
        client: Client,
        nursery: trio.Nursery,
        synthetic: Networks,
        channel: Channel,
        log: Log,
    ) -> None:
        self.identity = identity
        self.attachment = attachment
        self.number = attachment.container  # by which the capture, C and the log know it; of no other run, ever
        self.client = client  # its own: the addresses that it may dial and its idle connections are nobody else's
        self.nursery = nursery
        self.synthetic = synthetic
        self.budget = identity.cls.budget
        self.recorder = Recorder(channel, identity.owner, identity.policies)
        self.faults = Faults(log, identity.owner)
        questions = Questions(self.recorder, self.faults)
        self.lookups = Lookups(self.number, self.decide_name, self.budget, Names(synthetic), questions)
        self.flows = 0  # that are with Python
        self.running = 0  # handlers
        self.refused = 0  # requests, for want of budget
        self.is_over = False  # no task may begin any more
        self.handle: ContainerHandle | NamespaceHandle | None = None
        self.namespace: tuple[int, int] | None = None  # device and inode of the network namespace, once attached
        self.gone = trio.Event()
        self.failure: BaseException | None = None  # why it ended, or why it did not end well
        self._life: Life | None = None
        self._task: trio.lowlevel.Task | None = None  # in which it begins and ends
        self._stopping = trio.Event()
        self._grace = trio.CancelScope()

    @property
    def is_stopping(self) -> bool:
        """Whether its processes are to end, or have: clients that leave now don't cancel their handlers."""
        return self._stopping.is_set()

    @property
    def has_ended(self) -> bool:
        return self.is_stopping or self.gone.is_set() or (self._life is not None and self._life.has_ended)

    def decide_name(self, host: str) -> int:
        """The best verdict for this name, whatever its address."""
        return self.identity.policies.now.decide_name(host)

    async def stop(self, grace: float) -> None:
        """Returns when nothing of the run is left. A cancelled call ends the grace, and waits as well.

        A task of the run itself is cancelled with the others when the grace is over.

        Raises: RuntimeFailure if it did not end well.
        """
        self._begin_stop(grace)
        try:
            await self.gone.wait()
        except trio.Cancelled:
            if self._is_ours(trio.lowlevel.current_task()):
                raise  # the run waits for this task: it can't wait for the run
            self._begin_stop(0)
            with trio.CancelScope(shield=True):
                await self.gone.wait()
            raise
        if self.failure is not None:
            raise RuntimeFailure(f"stop {self.identity}: {self.failure}") from self.failure

    async def serve(self, life: Life, relay: Relay) -> None:
        """Lasts until the container is stopped or ends by itself, then ends its flows in order.

        Raises: what `life` raises; its flows have ended even so.
        """
        self._life = life
        self._task = trio.lowlevel.current_task()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_with, life)
            await self._stopping.wait()
            nursery.cancel_scope.cancel()
        try:
            await life.stop()
        finally:
            with self._grace:
                await self._settle(relay)
            self.end_tasks()

    def fail(self, error: BaseException) -> None:
        """It ended by this error, or did not end well. Nobody else is told, unless a task waits in `stop`."""
        self.failure = error
        if isinstance(error, InterceptorError):
            log.warning("%s: %s", self.identity, error)
        else:
            log.error("%s: failed", self.identity, exc_info=error)

    def end_tasks(self) -> None:
        """Cancels every task that works for the container; none begins after this."""
        self.is_over = True
        self.nursery.cancel_scope.cancel()

    def _is_ours(self, task: trio.lowlevel.Task) -> bool:
        """Whether the task works for this container, as one of its handlers."""
        while task.parent_nursery is not None:
            task = task.parent_nursery.parent_task
            if task is self._task:
                return True
        return False

    def _begin_stop(self, grace: float) -> None:
        self._grace.deadline = min(self._grace.deadline, trio.current_time() + grace)
        self._stopping.set()

    async def _end_with(self, life: Life) -> None:
        await life.wait_until_ended()
        self._begin_stop(GRACE)

    async def _settle(self, relay: Relay) -> None:
        """Bytes that were sent are forwarded, and handlers finish. The relay tells nobody when a flow ends."""
        settled, idle = trio.current_time() + SETTLE, 0
        while idle < 2:  # a flow may be on its way from the relay to us
            is_moving = relay.count(self.number).flows and trio.current_time() < settled
            idle = 0 if is_moving or self.flows else idle + 1
            await trio.sleep(PAUSE)


@asynccontextmanager
async def flows_ended(relay: Relay, container: int) -> AsyncIterator[None]:
    """Resets the container's flows in the relay when the block ends, and waits until their sockets are closed."""
    try:
        yield
    finally:
        relay.end_flows(container)
        with trio.move_on_after(RESET, shield=True):
            while relay.count(container).flows:  # noqa: ASYNC110  # C counts, and tells nobody
                await trio.sleep(PAUSE)
