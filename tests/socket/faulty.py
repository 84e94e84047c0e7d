"""Lets each system or library call of a flow fail in turn: `LD_PRELOAD=…/faults.so python -m tests.socket.faulty`.

A second container runs beside the one whose flow meets the fault. Budgets are small, so that the next flow lacks any
resource that the failed one has not released.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress

import trio

from pyinterceptor.capture.capture import Attachment
from pyinterceptor.policy.budget import Budget
from pyinterceptor.policy.layout import resolved
from pyinterceptor.policy.rules import Rules
from pyinterceptor.policy.table import compile
from pyinterceptor.relay.relay import Handoff, Options, Relay, Resolve, open_relay
from tests.socket.passage import CONTAINER, FAR, LO, NAME, NEAR, NEAR_V6, listener

OTHER = 42  # the other container
RULES = Rules({"my.kv": 0}, None, internet=True, local_networks=("127.0.0.0/8",))
SMALL = Budget(flows=4, openings=3, handoffs=2, pipes=2)
PATIENCE = 0.5  # seconds that a flow with a fault may keep its client waiting
GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
ASK = b"GET / HTTP/1.1\r\nHost: my.kv\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LARGE = 600_000  # bytes: enough to use a pipe
faults = ctypes.CDLL(None)
CALLS = (
    *(b"accept4", b"getsockopt", b"getsockname", b"setsockopt", b"socket", b"connect", b"epoll_ctl", b"recv", b"send"),
    *(b"splice", b"pipe2", b"fcntl", b"write", b"malloc", b"calloc", b"realloc"),
)


class Bench:
    """Two containers with an origin each. The first byte of the client selects the origin's answer."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.addresses: dict[int, tuple[str, int]] = {}

    async def serve_events(self) -> None:
        async for batch in self.relay.events():
            for event in batch:
                match event:
                    case Resolve():
                        self.relay.publish_name(event.container, event.name, (NEAR, NEAR_V6), [FAR], 0.0)
                    case Handoff():
                        with socket.socket(fileno=event.fd) as made, suppress(OSError):
                            made.recv(65536)
                            made.send(OK)
                        self.relay.returned(event, 0, 0)

    async def serve_origin(self, origin: socket.socket) -> None:
        origin.setblocking(False)
        accepting = trio.socket.from_stdlib_socket(origin)
        async with trio.open_nursery() as nursery:
            while True:
                made, _ = await accepting.accept()
                nursery.start_soon(self._answer, trio.SocketStream(made))

    async def _answer(self, stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with stream:
                while data := await stream.receive_some(65536):
                    if data.startswith(b"GET"):
                        await stream.send_all(OK)
                    elif data.startswith(b"\0"):
                        await stream.send_all(bytes(LARGE))

    async def dialogue(self, container: int) -> None:
        """Makes an opaque flow with a large answer, and one whose second request is handled by Python."""
        for exchanges in ([(b"\0", LARGE)], [(GET, len(OK)), (GET, len(OK)), (ASK, len(OK))]):
            stream = await trio.open_tcp_stream(*self.addresses[container])
            async with stream:
                for request, expected in exchanges:
                    await stream.send_all(request)
                    while expected > 0:
                        data = await stream.receive_some(65536)
                        if not data:
                            raise trio.BrokenResourceError
                        expected -= len(data)

    async def suffers(self, call: bytes, number: int) -> bool:
        """Makes one container's flows while the n-th such call fails. Returns False if there were fewer calls."""
        faults.faults_arm(call, number)
        is_done = False
        with suppress(trio.BrokenResourceError, OSError), trio.move_on_after(PATIENCE):
            await self.dialogue(CONTAINER)
            is_done = True
        await self.is_idle()
        has_failed = bool(faults.faults_has_failed())
        faults.faults_arm(b"", 0)
        found = self.relay.count()
        # `handled`: Python answers a plain HTTP client whose server can't be dialled.
        assert is_done or found.no_resources + found.failed_dials + found.handled == 1, found
        return has_failed

    async def is_idle(self) -> None:
        with trio.fail_after(10):
            while self.relay.count().flows:
                await trio.lowlevel.checkpoint()

    async def is_well(self) -> None:
        """Asserts that the flows of both containers work and that no resource stays in use."""
        with trio.fail_after(10):
            for container in (OTHER, CONTAINER):
                await self.dialogue(container)
        await self.is_idle()
        for container in (OTHER, CONTAINER):
            for name in ("passing.test", NAME):  # refused while a flow holds the address
                assert self.relay.publish_name(container, name, (NEAR, NEAR_V6), [FAR], 1000), (container, name)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@asynccontextmanager
async def opened_bench() -> AsyncIterator[Bench]:
    async with open_relay(Options(threads=1, sniff_wait=0.2, opening_deadline=0.5)) as relay:
        bench = Bench(relay)
        with ExitStack() as stack:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bench.serve_events)
                for container in (CONTAINER, OTHER):
                    near = stack.enter_context(listener(str(NEAR)))
                    address = (str(NEAR), near.getsockname()[1])
                    origin = stack.enter_context(socket.create_server((str(FAR), address[1]), backlog=64))
                    relay.add_container(relay.listen(near), Attachment(container, LO, NEAR, NEAR_V6), SMALL)
                    relay.publish_policy(container, resolved(compile(RULES, 1), []))
                    relay.publish_name(container, NAME, (NEAR, NEAR_V6), [FAR], 1000)
                    bench.addresses[container] = address
                    nursery.start_soon(bench.serve_origin, origin)
                yield bench
                nursery.cancel_scope.cancel()


async def fails_alone(call: bytes, number: int) -> bool:
    before = descriptors()
    async with opened_bench() as bench:
        has_failed = await bench.suffers(call, number)
        await bench.is_well()
    assert descriptors() == before
    return has_failed


async def main() -> None:
    for call in CALLS:
        number = 1
        try:
            while await fails_alone(call, number):
                number += 1
        except BaseException:
            print(f"after failure {number} of {call.decode()}", file=sys.stderr)
            raise
        print(call.decode(), number - 1)


if __name__ == "__main__":
    trio.run(main)
