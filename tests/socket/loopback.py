"""Real sockets on the loopback address: connected pairs, hub streams, a pump in Python."""

from __future__ import annotations

import functools
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import trio

from pyinterceptor.relay.hub import Hub
from pyinterceptor.relay.stream import HubStream

PATIENCE = 30.0  # seconds until a test counts as stuck


def in_trio(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Runs an async test in real time."""

    @functools.wraps(test)
    def run(**arguments: Any) -> None:
        async def main() -> None:
            with trio.fail_after(PATIENCE):
                await test(**arguments)

        trio.run(main)

    return run


def pair(*, small: bool = False) -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection; `small`: with buffers of a few kilobytes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.socket()
        if small:
            for made in (listener, one):
                made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        one.connect(listener.getsockname())
        other, _ = listener.accept()
    return one, other


def reset(sock: socket.socket) -> None:
    """Closes so that the other end sees a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@asynccontextmanager
async def open_hub() -> AsyncIterator[Hub]:
    async with trio.open_nursery() as nursery:
        hub = Hub()
        nursery.start_soon(hub.run)
        yield hub
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def hub_pair(*, small: bool = False) -> AsyncIterator[tuple[HubStream, trio.SocketStream]]:
    """A hub's stream and its peer, an ordinary one of Trio's."""
    async with open_hub() as hub:
        theirs, ours = pair(small=small)
        stream, peer = hub.stream(ours), plain(theirs)
        try:
            yield stream, peer
        finally:
            stream.close_nowait()
            peer.socket.close()


def plain(sock: socket.socket) -> trio.SocketStream:
    sock.setblocking(False)
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


class PythonPumping:
    """What `Relay.pump` does in C."""

    def __init__(self, source: socket.socket, sink: socket.socket, limit: int) -> None:
        self.moved = 0
        self._source = source
        self._sink = sink
        self._limit = limit

    async def wait(self) -> None:
        while self.moved < self._limit:
            await trio.lowlevel.wait_readable(self._source)
            data = self._source.recv(min(65536, self._limit - self.moved))
            if not data:
                return
            while data:
                try:
                    sent = self._sink.send(data)
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._sink)
                else:
                    data = data[sent:]
                    self.moved += sent


class PythonPump:
    """Counts how often it was used and what it moved."""

    def __init__(self) -> None:
        self.pumped: list[int] = []

    @contextmanager
    def __call__(self, source: socket.socket, sink: socket.socket, limit: int) -> Iterator[PythonPumping]:
        pumping = PythonPumping(source, sink, limit)
        try:
            yield pumping
        finally:
            self.pumped.append(pumping.moved)


async def read_all(stream: trio.abc.ReceiveStream) -> tuple[bytes, bool]:
    """Everything to the end, and whether that was a reset."""
    got = bytearray()
    try:
        while data := await stream.receive_some(65536):
            got += data
    except trio.BrokenResourceError:
        return bytes(got), True
    return bytes(got), False
