"""A container's run: everything that lasts from its start to its stop, and the order in which it ends."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio
from dns.rdatatype import AAAA, A

from pyinterceptor._relay import lib
from pyinterceptor.boundary import parted
from pyinterceptor.capture.capture import Attachment
from pyinterceptor.dns.names import Names, Networks
from pyinterceptor.dns.resolver import Lookups
from pyinterceptor.errors import InterceptorError, RuntimeFailure
from pyinterceptor.http.client import Client
from pyinterceptor.policy.addresses import Address
from pyinterceptor.relay.relay import Relay
from pyinterceptor.runtime.hostname import hostname
from pyinterceptor.runtime.process import Running
from pyinterceptor.runtime.runtime import Life, Runtime
from pyinterceptor.serving.channel import Channel
from pyinterceptor.serving.container import Identity
from pyinterceptor.serving.log import Faults, Log
from pyinterceptor.serving.low_level import GRACE
from pyinterceptor.serving.recording import Questions, Recorder
from pyinterceptor.serving.start import Start
from pyinterceptor.serving.tunnels import Tunnels

log = logging.getLogger("pyinterceptor")

RESET = 1.0  # seconds at most for the relay to close the sockets of ended flows
PAUSE = 0.005  # seconds between two reads of the relay's counters


# The standing (`enum standing`, cext/policy.h) of an address and port towards a client that says this host.
Standing = Callable[[str, Address, int], int]


def free(host: str, address: Address, port: int) -> int:
    """Returns the standing of every address while rules name no host."""
    return int(lib.STANDING_FREE)


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
        standing: Standing = free,
    ) -> None:
        self.identity = identity
        self.attachment = attachment
        self.number = attachment.container  # identifies this run, and no other ever, to the capture and to C
        self.client = client  # not shared: its guard and its idle connections belong to this container
        self.nursery = nursery
        self.synthetic = synthetic
        self.standing = standing
        self._are_ruled_known = trio.Event()  # the real addresses of the policy's hosts
        self.budget = identity.cls.budget
        self.recorder = Recorder(channel, identity.owner, identity.policies)
        self.faults = Faults(log, identity.owner)
        questions = Questions(self.recorder, self.faults)
        names = Names(synthetic, self.budget.names)
        addresses = {int(A): attachment.v4.packed, int(AAAA): attachment.v6.packed}
        own = hostname(identity.name).lower(), addresses
        self.lookups = Lookups(self.number, self.decide_name, self.budget, names, questions, own)
        self.tunnels = Tunnels()
        self.flows = 0  # that Python serves now
        self.running = 0  # handlers that run now
        self.after = 0  # functions of wait_until that run now
        self.refused = 0  # requests beyond the budget of handlers
        self.is_over = False  # no further task may begin
        self.start: Start | None = None  # None for a foreign namespace
        self.namespace: tuple[int, int] | None = None  # device and inode of the network namespace, once attached
        self.gone = trio.Event()
        self.failure: BaseException | None = None  # the error that ended it, or that its end raised
        self.entrypoint: Running | None = None
        self.exit_code = 0  # of the process whose end was the container's; 0 after a stop
        self._life: Life | None = None
        self._task: trio.lowlevel.Task | None = None  # the task that opens and closes the run
        self._stopping = trio.Event()
        self._grace = trio.CancelScope()

    @property
    def runtime(self) -> Runtime:
        """The runtime of its processes. Raises RuntimeFailure if they are those of a foreign namespace."""
        if self.start is None:
            raise RuntimeFailure(f"{self.identity} is attached to a foreign namespace")
        return self.start.runtime

    @property
    def is_stopping(self) -> bool:
        """Whether stop was requested. From then on a client that closes its connection doesn't cancel its handler."""
        return self._stopping.is_set()

    @property
    def has_ended(self) -> bool:
        return self.is_stopping or self.gone.is_set() or (self._life is not None and self._life.has_ended)

    def decide_name(self, host: str) -> int:
        """Returns the most permissive verdict that the name can get at any address."""
        return self.identity.policies.now.decide_name(host)

    def set_ruled(self, *, are_known: bool) -> None:
        """Reports that a policy was published, with or without the real addresses of the hosts that it names."""
        if are_known:
            self._are_ruled_known.set()
        elif self._are_ruled_known.is_set():
            self._are_ruled_known = trio.Event()

    async def known_standing(self, host: str, address: Address, port: int) -> int:
        """Returns the standing of an address, once the real addresses of the policy's hosts are known."""
        while (standing := self.standing(host, address, port)) == lib.STANDING_UNKNOWN:
            await self._are_ruled_known.wait()
        return standing

    async def stop(self, grace: float) -> None:
        """Stops the run; returns when nothing of it is left. A cancelled call ends the grace and still waits.

        A task of the run itself is cancelled with the others when the grace is over.

        Raises RuntimeFailure if the run has failed, or its end did.
        """
        self._begin_stop(grace)
        try:
            await self.gone.wait()
        except trio.Cancelled:
            if self._is_ours(trio.lowlevel.current_task()):
                raise  # the run waits for this task, so this task must not wait for the run
            self._begin_stop(0)
            with trio.CancelScope(shield=True):
                await self.gone.wait()
            raise
        if self.failure is not None:
            raise RuntimeFailure(f"stop {self.identity}: {self.failure}") from self.failure

    async def serve(self, life: Life, relay: Relay) -> None:
        """Waits until the container is stopped or ends by itself, then ends its flows in order.

        Raises the errors of `life`; the flows have ended even then.
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
        """Keeps and logs the error that ended the run, or that its end raised. A task that waits in `stop` gets it."""
        self.failure = error
        if isinstance(error, InterceptorError):
            log.warning("%s: %s", self.identity, error)
        else:
            log.error("%s: failed", self.identity, exc_info=error)

    def begin_after(self, function: Callable[[], Awaitable[object]]) -> None:
        """Starts a function of `ctx.wait_until`, which the end of the grace cancels. Its exception is logged."""
        self.after += 1
        self.nursery.start_soon(self._run_after, function)

    async def _run_after(self, function: Callable[[], Awaitable[object]]) -> None:
        try:
            await function()
        except BaseException as error:
            passes, ends = parted(error)
            if ends is not None:
                self.faults.error("a function of wait_until failed", ends)
            if passes is not None:
                raise passes from None
        finally:
            self.after -= 1

    def end_tasks(self) -> None:
        """Cancels every task of the container; none begins after this."""
        self.is_over = True
        self.nursery.cancel_scope.cancel()

    def _is_ours(self, task: trio.lowlevel.Task) -> bool:
        """Whether the task belongs to this container, as a handler's does."""
        while task.parent_nursery is not None:
            task = task.parent_nursery.parent_task
            if task is self._task:
                return True
        return False

    def _begin_stop(self, grace: float) -> None:
        self._grace.deadline = min(self._grace.deadline, trio.current_time() + grace)
        self._stopping.set()

    async def follow_entrypoint(self, entrypoint: Running) -> None:
        """Ends the run when this process ends."""
        self.entrypoint = entrypoint
        try:
            code = await entrypoint.wait()
            if not self.is_stopping:
                self.exit_code = code
                self._begin_stop(GRACE)
        finally:
            await entrypoint.aclose()

    async def _end_with(self, life: Life) -> None:
        await life.wait_until_ended()
        self._begin_stop(GRACE)

    async def _settle(self, relay: Relay) -> None:
        """Waits until sent bytes are forwarded and handlers have finished. Polls, since the relay reports no ends."""
        relay.finish_flows(self.number)
        idle = 0
        while idle < 2:  # a flow may be in transit from the relay to Python
            is_busy = relay.count(self.number).flows or self.flows or self.after
            idle = 0 if is_busy else idle + 1
            await trio.sleep(PAUSE)


@asynccontextmanager
async def flows_ended(relay: Relay, container: int) -> AsyncIterator[None]:
    """Resets the container's flows in the relay when the block ends, and waits until their sockets are closed."""
    try:
        yield
    finally:
        relay.end_flows(container)
        with trio.move_on_after(RESET, shield=True):
            while relay.count(container).flows:  # noqa: ASYNC110  # C counts without reporting
                await trio.sleep(PAUSE)
