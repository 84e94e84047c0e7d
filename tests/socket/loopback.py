"""Real sockets on the loopback address: connected pairs, hub streams, and pumps in Python and C."""

from __future__ import annotations

import functools
import ipaddress
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from functools import partial
from typing import Any

import trio

from pyinterceptor.capture.capture import Attachment
from pyinterceptor.http.transfer import Pump, Pumping
from pyinterceptor.policy.budget import Budget
from pyinterceptor.relay.hub import Hub
from pyinterceptor.relay.relay import Options, open_relay
from pyinterceptor.relay.stream import HubStream

PATIENCE = 30.0  # seconds after which a test counts as stuck


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
    """Returns the two ends of a TCP connection. `small`: with buffers of a few kilobytes."""
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
    """Closes the socket with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@asynccontextmanager
async def open_hub() -> AsyncIterator[Hub]:
    with closing(Hub()) as hub:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hub.run)
            yield hub
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def hub_pair(*, small: bool = False) -> AsyncIterator[tuple[HubStream, trio.SocketStream]]:
    """Yields a hub's stream and its peer, an ordinary stream of Trio."""
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
    """Does the same as `Relay.pump` in C."""

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


@contextmanager
def python_pump(source: socket.socket, sink: socket.socket, limit: int) -> Iterator[PythonPumping]:
    yield PythonPumping(source, sink, limit)


@asynccontextmanager
async def c_pump() -> AsyncIterator[Pump]:
    """Yields the pump of a relay, for a container without a network."""
    async with open_relay(Options()) as relay:
        relay.add_container(0, nowhere(7), Budget())
        yield partial(relay.pump, 7)


def nowhere(container: int) -> Attachment:
    """Returns an attachment on which no connection arrives."""
    return Attachment(container, 0, ipaddress.IPv4Address("198.51.100.1"), ipaddress.IPv6Address("2001:db8::1"))


class Counted:
    """A pump that records the number of bytes that each use moved."""

    def __init__(self, pump: Pump) -> None:
        self.pumped: list[int] = []
        self._pump = pump

    @contextmanager
    def __call__(self, source: socket.socket, sink: socket.socket, limit: int) -> Iterator[Pumping]:
        with self._pump(source, sink, limit) as pumping:
            try:
                yield pumping
            finally:
                self.pumped.append(pumping.moved)


@asynccontextmanager
async def open_pump(kind: str) -> AsyncIterator[Counted]:
    """Yields the pump in "Python" or in "C"."""
    if kind == "Python":
        yield Counted(python_pump)
    else:
        async with c_pump() as pump:
            yield Counted(pump)


async def read_all(stream: trio.abc.ReceiveStream) -> tuple[bytes, bool]:
    """Returns all bytes up to the end of the stream, and whether it ended with a reset."""
    got = bytearray()
    try:
        while data := await stream.receive_some(65536):
            got += data
    except trio.BrokenResourceError:
        return bytes(got), True
    return bytes(got), False


def whole(sock: socket.socket, length: int) -> bytes:
    """Returns the next bytes; fewer only if the peer ends. (A socket with a timeout ignores MSG_WAITALL.)"""
    got = bytearray()
    while len(got) < length and (some := sock.recv(length - len(got))):
        got += some
    return bytes(got)
