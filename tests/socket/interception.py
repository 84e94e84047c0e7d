"""An interceptor without a kernel part: its capture is the loopback interface, its containers are sockets of the test.

Everything between these two is the real thing: relay, hub, server, DNS, runs. A connection to the capture's address
is HTTP to the host that its request names.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any

import trio
import trio.testing

from pyinterceptor import App, Container, ContainerHandle
from pyinterceptor.bindings.env import Env
from pyinterceptor.capture.capture import Attachment
from pyinterceptor.dns.names import SYNTHETIC
from pyinterceptor.dns.servers import Servers
from pyinterceptor.dns.upstream import open_upstream
from pyinterceptor.http.reply import MAX_HEAD
from pyinterceptor.http.server import open_server
from pyinterceptor.policy.addresses import Network
from pyinterceptor.policy.limits import Limits
from pyinterceptor.relay.hub import Hub
from pyinterceptor.relay.relay import Options, Relay, open_relay
from pyinterceptor.runtime.files import Files
from pyinterceptor.runtime.runtime import Attach
from pyinterceptor.serving.flows import Flows
from pyinterceptor.serving.interceptor import Interceptor
from pyinterceptor.serving.kept import Kept
from pyinterceptor.serving.log import Log
from pyinterceptor.serving.ruled import RuledNames
from tests.socket.passage import FAR, LO, NAME, NEAR, NEAR_V6, listener

ELSEWHERE = 1_000_000  # an interface without traffic


class LoopbackCapture:
    """A Capture. The first container that is attached has the loopback interface, the others have none."""

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
        """Does nothing: this capture uses no namespace."""

    async def empty_namespace(self, netns_fd: int) -> None:
        """Does nothing: this capture uses no namespace."""

    async def attach(self, attachment: Attachment, netns_fd: int) -> None:
        await trio.lowlevel.checkpoint()

    async def wait_until_gone(self, attachment: Attachment) -> None:
        await trio.sleep_forever()

    async def detach(self, attachment: Attachment) -> None:
        self.reserved.pop(attachment.interface, None)

    def set_reach(self, attachment: Attachment, *, ipv6: Set[Network], metadata: bool) -> None:
        """Does nothing: the loopback interface reaches everything."""

    def serve_ipv6(self, attachment: Attachment, networks: Any) -> None:
        """Does nothing: this capture uses no namespace."""

    def set_ipv6(self, v6: bool) -> None:
        """Does nothing: this capture uses no namespace."""


class Sockets:
    """A Runtime whose processes are sockets of the test's own."""

    pid = os.getpid()

    def __init__(self, ending: Callable[[], Awaitable[None]]) -> None:
        self.has_ended = False
        self.dies = trio.Event()  # ends the processes without a stop
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
    """Ends the processes at once."""


class Interception:
    """An interceptor with its capture, its hub and its containers."""

    def __init__(self, interceptor: Interceptor, relay: Relay, capture: LoopbackCapture, hub: Hub) -> None:
        self.interceptor = interceptor
        self.relay = relay
        self.capture = capture
        self.hub = hub
        self.containers: dict[str, Sockets] = {}  # by name

    async def started(self, cls: type[Container], name: str = "default") -> ContainerHandle:
        """Starts a container; returns its stub."""
        container = self.interceptor.get_container(cls, name)
        await container.start()
        return container

    def asks(self, name: str, host: str = "my.kv", path: str = "/") -> socket.socket:
        """Returns a new connection of the container, on which a request is sent."""
        made = self.containers[name].connect(self.capture.address)
        made.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        return made

    @contextmanager
    def origin(self, number: int) -> Iterator[socket.socket]:
        """Opens the server at which the connections of a run, known by its number, arrive if no rule handles them.

        Its buffer is small, so that bytes wait with us until it reads.
        """
        assert self.relay.publish_name(number, NAME, (NEAR, NEAR_V6), [FAR], 1000)
        with socket.create_server((str(FAR), self.capture.address[1])) as made:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            made.settimeout(30)
            yield made

    def is_refused(self, name: str) -> bool:
        """Whether the container's next connection is reset."""
        try:
            return self.asks(name).recv(1) == b""
        except ConnectionResetError:
            return True


@asynccontextmanager
async def interception(
    classes: Sequence[type[Container]],
    *,
    starting: Callable[[str], Awaitable[None]] | None = None,
    ending: Callable[[], Awaitable[None]] = nothing,
    bindings: Mapping[str, Any] | None = None,
    exports: Sequence[Any] = (),
    kept: Kept | None = None,
) -> AsyncIterator[Interception]:
    """Opens an interceptor. Each start awaits `starting(name)`, each stop `ending()`."""
    app = App(containers=classes, bindings=bindings, exports=exports)
    with ExitStack() as stack:
        hub = Hub()
        stack.callback(hub.close)
        capture = LoopbackCapture(stack)
        async with (
            open_relay(Options(threads=1)) as relay,
            open_server() as server,
            open_upstream(Servers(["127.0.0.1"])) as upstream,
            trio.open_nursery() as nursery,
        ):

            @asynccontextmanager
            async def open_sockets(
                *,
                image: str | None,
                name: str,
                user: str | None,
                files: Files,
                limits: Limits,
                attach: Attach,
                replaced: bool = False,
            ) -> AsyncIterator[Sockets]:
                if starting is not None:
                    await starting(name)
                namespace = os.memfd_create(name)  # stands for a namespace: it has device and inode
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
                upstream=upstream,
                open_runtime=open_sockets,
                v6=False,
                synthetic=SYNTHETIC,
                ruled=RuledNames(),
                env=Env(app.bindings),
                policies={cls: app.policy(cls, 0) for cls in classes},
                log=Log(),
                kept=kept or Kept(None, {}),
                fetch_head=MAX_HEAD,
            )
            opened = Interception(interceptor, relay, capture, hub)
            nursery.start_soon(hub.run)
            nursery.start_soon(interceptor.recording.run)
            nursery.start_soon(interceptor.ruled.keep)
            nursery.start_soon(Flows(relay, hub, server, interceptor.resolver, interceptor.env, interceptor.runs).run)
            await trio.testing.wait_all_tasks_blocked()  # until all of these tasks have begun
            yield opened
            nursery.cancel_scope.cancel()
