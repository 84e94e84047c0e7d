"""The pump: bodies that C moves between two sockets while Python waits."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest
import trio

from pyinterceptor.policy.budget import Budget
from pyinterceptor.relay.relay import Options, Relay, open_relay
from tests.socket.loopback import nowhere

CONTAINER = 1  # number of a container; its interface is not used
LARGE = os.urandom(1 << 20) * 40
SMALL = b"a small body"


@dataclass(frozen=True, slots=True)
class Bridge:
    """sender → source ⇒ pump ⇒ sink → receiver: two TCP connections over loopback, and the relay."""

    relay: Relay
    sender: trio.SocketStream
    source: socket.socket
    sink: socket.socket
    receiver: trio.SocketStream

    async def pump(self, limit: int) -> int:
        """Pumps from source to sink, up to the limit or the source's end. Returns the count of bytes."""
        with self.relay.pump(CONTAINER, self.source, self.sink, limit) as pumping:
            await pumping.wait()
        return pumping.moved


@asynccontextmanager
async def bridge() -> AsyncIterator[Bridge]:
    with ExitStack() as stack, trio.fail_after(30):
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        def connection() -> tuple[socket.socket, socket.socket]:
            near = stack.enter_context(socket.create_connection(listener.getsockname()))
            far = stack.enter_context(listener.accept()[0])
            near.setblocking(False)
            far.setblocking(False)
            return near, far

        sender, source = connection()
        sink, receiver = connection()
        async with open_relay(Options()) as relay:
            relay.add_container(0, nowhere(CONTAINER), Budget())
            made = [trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in (sender, receiver)]
            yield Bridge(relay, made[0], source, sink, made[1])


def over_a_bridge(scenario: Callable[[Bridge], Awaitable[None]]) -> None:
    async def main() -> None:
        async with bridge() as made:
            await scenario(made)

    trio.run(main)


async def read(stream: trio.SocketStream, count: int) -> bytes:
    data = bytearray()
    while len(data) < count and (part := await stream.receive_some(count - len(data))):
        data += part
    return bytes(data)


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
def test_bytes_within_the_limit_move_and_the_rest_stays(body: bytes) -> None:
    async def scenario(made: Bridge) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.sender.send_all, body + b"and more")
            nursery.start_soon(made.pump, len(body))
            assert hashlib.sha256(await read(made.receiver, len(body))).digest() == hashlib.sha256(body).digest()
        assert made.source.recv(100) == b"and more"
        made.sink.send(b"!")  # the owner can still write to the sink
        assert await read(made.receiver, 1) == b"!"

    over_a_bridge(scenario)


def test_the_count_shows_that_a_source_ended_early() -> None:
    async def scenario(made: Bridge) -> None:
        await made.sender.send_all(SMALL)
        await made.sender.send_eof()
        assert await made.pump(1000) == len(SMALL)
        made.sink.shutdown(socket.SHUT_WR)  # the owner ends it
        assert await read(made.receiver, 1000) == SMALL

    over_a_bridge(scenario)


@pytest.mark.parametrize("side", ["source", "sink"])
def test_a_side_that_breaks_is_an_error(side: str) -> None:
    async def scenario(made: Bridge) -> None:
        end = made.sender if side == "source" else made.receiver
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        async with trio.open_nursery() as nursery:

            async def broken() -> None:
                with pytest.raises((ConnectionResetError, BrokenPipeError)):
                    await made.pump(1 << 40)
                nursery.cancel_scope.cancel()

            nursery.start_soon(broken)
            if side == "sink":
                nursery.start_soon(made.sender.send_all, LARGE)
                await read(made.receiver, 100_000)
            await trio.aclose_forcefully(end)

    over_a_bridge(scenario)


def test_a_sink_that_breaks_is_an_error_though_the_source_is_silent() -> None:
    async def scenario(made: Bridge) -> None:
        made.receiver.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        with made.relay.pump(CONTAINER, made.source, made.sink, 1000) as pumping:
            await made.sender.send_all(SMALL)
            await read(made.receiver, len(SMALL))
            await trio.aclose_forcefully(made.receiver)
            with pytest.raises(ConnectionResetError):
                await pumping.wait()
        assert pumping.moved == len(SMALL)

    over_a_bridge(scenario)


def test_the_count_is_known_while_bytes_move() -> None:
    async def scenario(made: Bridge) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.sender.send_all, LARGE)
            with made.relay.pump(CONTAINER, made.source, made.sink, len(LARGE)) as pumping:
                while pumping.moved < 100_000:  # the kernel's buffers take that, although the receiver reads nothing
                    await trio.lowlevel.checkpoint()
                assert pumping.moved < len(LARGE)
                await read(made.receiver, len(LARGE))
                await pumping.wait()
                assert pumping.moved == len(LARGE)

    over_a_bridge(scenario)


def test_a_cancelled_pump_returns_the_sockets() -> None:
    async def scenario(made: Bridge) -> None:
        await made.sender.send_all(SMALL)
        with trio.move_on_after(0.1):
            await made.pump(1000)
        assert await read(made.receiver, len(SMALL)) == SMALL
        await made.sender.send_all(b"for its owner again")
        with trio.fail_after(5):
            await trio.lowlevel.wait_readable(made.source)
        assert made.source.recv(100) == b"for its owner again"

    over_a_bridge(scenario)


def test_two_pumps_share_their_sockets_one_each_way() -> None:
    async def scenario(made: Bridge) -> None:
        async def back() -> None:
            with made.relay.pump(CONTAINER, made.sink, made.source, len(LARGE)) as pumping:
                await pumping.wait()
            assert pumping.moved == len(LARGE)

        async def there() -> None:
            assert await made.pump(len(LARGE)) == len(LARGE)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(there)
            nursery.start_soon(back)
            nursery.start_soon(made.sender.send_all, LARGE)
            nursery.start_soon(made.receiver.send_all, LARGE)
            nursery.start_soon(read, made.sender, len(LARGE))
            assert await read(made.receiver, len(LARGE)) == LARGE

    over_a_bridge(scenario)


def test_a_pump_for_no_container_is_refused() -> None:
    async def scenario(made: Bridge) -> None:
        with pytest.raises(FileNotFoundError), made.relay.pump(7, made.source, made.sink, 1):
            raise AssertionError("it began")

    over_a_bridge(scenario)
