"""An interceptor without a kernel part: its capture is the loopback interface, its containers are sockets of the test.

All between these two is the product's own: relay, hub, server, DNS, runs. What is dialled at the capture's address is
HTTP to whatever host it names.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import trio
import trio.testing

from pyinterceptor import App, Container
from pyinterceptor.capture.capture import Attachment
from pyinterceptor.dns.names import SYNTHETIC
from pyinterceptor.dns.upstream import Upstream
from pyinterceptor.http.server import open_server
from pyinterceptor.relay.hub import Hub
from pyinterceptor.relay.relay import Options, open_relay
from pyinterceptor.runtime.runtime import Attach
from pyinterceptor.serving.flows import Flows
from pyinterceptor.serving.interceptor import Interceptor
from pyinterceptor.serving.log import Log
from tests.socket.passage import LO, NEAR, NEAR_V6, listener

ELSEWHERE = 1_000_000  # an interface that nothing comes in on


class LoopbackCapture:
    """A Capture. Of the containers that are attached, the first has the loopback interface, the others none."""

    def __init__(self, stack: ExitStack) -> None:
        self.listener = stack.enter_context(listener(str(NEAR)))
        self.dns = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
        self.address = (str(NEAR), self.listener.getsockname()[1])
        self.reserved: dict[int, Attachment] = {}  # by interface

    def reserve(self, container: int) -> Attachment:
        interface = ELSEWHERE + container if LO in self.reserved else LO
        made = self.reserved[interface] = Attachment(container, interface, NEAR, NEAR_V6)
        return made

    async def check_namespace(self, netns_fd: int) -> None:
        """It has none."""

    async def empty_namespace(self, netns_fd: int) -> None:
        """It has none."""

    async def attach(self, attachment: Attachment, netns_fd: int) -> None:
        await trio.lowlevel.checkpoint()

    async def wait_until_gone(self, attachment: Attachment) -> None:
        await trio.sleep_forever()

    async def detach(self, attachment: Attachment) -> None:
        self.reserved.pop(attachment.interface, None)

    def container_on(self, interface: int) -> int | None:
        attachment = self.reserved.get(interface)
        return None if attachment is None else attachment.container

    def set_ipv6(self, v6: bool) -> None:
        """It has none."""


class Sockets:
    """A Runtime whose processes are sockets of the test's own."""

    pid = os.getpid()

    def __init__(self, ending: Callable[[], Awaitable[None]]) -> None:
        self.has_ended = False
        self.dies = trio.Event()  # by itself
        self._ending = ending
        self._open: list[socket.socket] = []

    def connect(self, address: tuple[str, int]) -> socket.socket:
        made = socket.create_connection(address, 30)
        self._open.append(made)
        return made

    async def wait_until_ended(self) -> None:
        await self.dies.wait()

    async def stop(self) -> None:
        if self.has_ended:
            return
        self.has_ended = True
        for made in self._open:
            made.close()
        await self._ending()

    async def start(self, argv: Any, **options: Any) -> Any:
        raise NotImplementedError

    async def start_inherited(self, words: Any, env: Any, prefix: Any) -> Any:
        raise NotImplementedError


async def nothing() -> None:
    """The processes end at once."""


class Interception:
    """What a test has before it."""

    def __init__(self, interceptor: Interceptor, capture: LoopbackCapture, hub: Hub) -> None:
        self.interceptor = interceptor
        self.capture = capture
        self.hub = hub
        self.containers: dict[str, Sockets] = {}  # by name

    def asks(self, name: str, host: str = "my.kv", path: str = "/") -> socket.socket:
        """A new connection of the container, with a request on it."""
        made = self.containers[name].connect(self.capture.address)
        made.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        return made


@asynccontextmanager
async def interception(
    classes: Sequence[type[Container]],
    *,
    starting: Callable[[str], Awaitable[None]] | None = None,
    ending: Callable[[], Awaitable[None]] = nothing,
) -> AsyncIterator[Interception]:
    """`starting(name)` is awaited by each start, `ending()` by each stop."""
    app = App(containers=classes)
    with ExitStack() as stack:
        hub = Hub()
        stack.callback(hub.close)
        capture = LoopbackCapture(stack)
        async with open_relay(Options(threads=1)) as relay, open_server() as server, trio.open_nursery() as nursery:

            @asynccontextmanager
            async def open_sockets(
                *, image: str | None, name: str, user: str | None, attach: Attach
            ) -> AsyncIterator[Sockets]:
                if starting is not None:
                    await starting(name)
                namespace = os.memfd_create(name)  # as good as one here: it has an identity
                made = opened.containers[name] = Sockets(ending)
                try:
                    await attach(namespace)
                    yield made
                finally:
                    os.close(namespace)
                    with trio.CancelScope(shield=True):
                        await made.stop()

            interceptor = Interceptor(
                app,
                nursery,
                capture=capture,
                relay=relay,
                hub=hub,
                upstream=Upstream(["127.0.0.1"]),
                open_runtime=open_sockets,
                v6=False,
                synthetic=SYNTHETIC,
                env=None,
                policies={cls: app.policy(cls, 0) for cls in classes},
                log=Log(),
            )
            opened = Interception(interceptor, capture, hub)
            nursery.start_soon(hub.run)
            nursery.start_soon(interceptor.recording.run)
            nursery.start_soon(Flows(relay, hub, server, interceptor.resolver, None, interceptor.runs).run)
            await trio.testing.wait_all_tasks_blocked()  # until all of these have begun
            yield opened
            nursery.cancel_scope.cancel()
