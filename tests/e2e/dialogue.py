"""Both ends of a container's connection, played by the test: a client inside it, an origin in the world."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import pytest
import trio

from pyinterceptor import App, Container, open_interceptor
from pyinterceptor.capture.gateway.namespace import inside
from pyinterceptor.relay.relay import Options
from pyinterceptor.serving.interceptor import Interceptor
from tests.starting import started
from tests.world import ORIGIN_V4, World

DEADLINE = 20.0  # seconds, of a whole dialogue
PORT = 8000  # of origins; servers may speak first on this port
ACCESS_DENIED = bytes([21, 3, 3, 0, 2, 2, 49])  # RFC 8446 section 6.2


class End:
    """One end of a connection."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._heard = bytearray()

    @property
    def address(self) -> str:
        """Its own address; v4-mapped ones are written as IPv4."""
        return str(self._stream.socket.getsockname()[0]).removeprefix("::ffff:")

    async def says(self, text: bytes, *, piece: int = 0) -> None:
        """Sends all of the text at once, or `piece` bytes at a time, each as a segment of its own."""
        for at in range(0, len(text), piece or len(text) or 1):
            await self._stream.send_all(text[at : at + piece] if piece else text)
            if piece:
                await trio.lowlevel.checkpoint()

    async def hears(self, text: bytes) -> None:
        """Asserts that exactly this text comes next."""
        assert await self.reads(len(text)) == text

    async def reads(self, count: int) -> bytes:
        """Returns the next `count` bytes; fewer only at the end."""
        while len(self._heard) < count and (data := await self._stream.receive_some()):
            self._heard += data
        return self._take(count)

    async def head(self) -> bytes:
        """Returns the next head with its blank line."""
        searched = 0
        while (at := self._heard.find(b"\r\n\r\n", searched)) < 0:
            searched = max(0, len(self._heard) - 3)
            if not (data := await self._stream.receive_some()):
                return self._take(len(self._heard))
            self._heard += data
        return self._take(at + 4)

    def _take(self, count: int) -> bytes:
        taken = bytes(self._heard[:count])
        del self._heard[:count]
        return taken

    async def response(self) -> tuple[int, bytes]:
        """Returns status and body of the next response, which must have a Content-Length."""
        head = await self.head()
        length = next(
            int(line.partition(b":")[2]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
        )
        return int(head.split(b" ")[1]), await self.reads(length)

    async def hears_the_end(self) -> None:
        assert await self.reads(1) == b""

    async def hears_a_refusal(self) -> None:
        """Asserts that the connection is reset, or that TLS's alert comes and then the end."""
        heard = b""
        with suppress(trio.BrokenResourceError):
            while said := await self._stream.receive_some():
                heard += said
            assert heard == ACCESS_DENIED
        assert heard in (b"", ACCESS_DENIED)

    async def hears_a_reset(self) -> None:
        with pytest.raises(trio.BrokenResourceError) as caught:
            assert await self._stream.receive_some() == b"", "it said something instead"
        assert isinstance(caught.value.__cause__, ConnectionResetError)

    async def resets(self) -> None:
        self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
        await self.aclose()

    async def says_no_more(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self._stream)


class Scene:
    """A running container, and a listener for origins in the world."""

    def __init__(self, interceptor: Interceptor, container: Any, namespace: int, listener: trio.SocketListener) -> None:
        self.interceptor = interceptor
        self.container = container
        self.namespace = namespace  # descriptor of the container's network namespace
        self._listener = listener
        self._ends: list[End] = []

    async def client(self, address: str = ORIGIN_V4, port: int = PORT) -> End:
        """Returns a new connection of the container."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        made = inside(self.namespace, lambda: socket.socket(family, socket.SOCK_STREAM))
        connection = trio.socket.from_stdlib_socket(made)
        try:
            await connection.connect((address, port))
        except BaseException:
            connection.close()
            raise
        return self._keep(trio.SocketStream(connection))

    async def is_refused(self, address: str = ORIGIN_V4, port: int = PORT) -> None:
        """Asserts that a connection of the container is refused, or reset soon after."""
        try:
            client = await self.client(address, port)
        except ConnectionError:
            return
        await client.hears_a_reset()

    async def origin(self) -> End:
        """Returns the next connection that arrives in the world, at any address and port PORT."""
        return self._keep(await self._listener.accept())

    def _keep(self, stream: trio.SocketStream) -> End:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end = End(stream)
        self._ends.append(end)
        return end

    async def aclose(self) -> None:
        with trio.CancelScope(shield=True):
            for end in self._ends:
                await end.aclose()


@asynccontextmanager
async def scene(
    world: World, cls: type[Container], instance: str, options: Options | None = None
) -> AsyncIterator[Scene]:
    """Yields a running container of the class, and an origin that the test plays."""
    app = App(containers=[cls], bindings={})
    with trio.fail_after(DEADLINE), origin_listener(world) as listener:
        async with open_interceptor(app, instance=instance, options=options) as interceptor:
            container = await started(interceptor, cls, "one")
            with namespace_of(container.pid) as namespace:
                opened = Scene(interceptor, container, namespace, listener)
                try:
                    yield opened
                finally:
                    await opened.aclose()


@contextmanager
def origin_listener(world: World) -> Iterator[trio.SocketListener]:
    def step() -> socket.socket:
        return socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)

    with inside(world.namespace, step) as made:
        made.setblocking(False)
        yield trio.SocketListener(trio.socket.from_stdlib_socket(made))


@contextmanager
def namespace_of(pid: int) -> Iterator[int]:
    """Yields a descriptor of the network namespace of a process."""
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
