"""Clients and handlers over real sockets: half-close, reset, full buffers, bodies that a pump moves."""

from __future__ import annotations

import select
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing

from pyinterceptor.errors import FetchError
from pyinterceptor.http.fetch import fetch
from pyinterceptor.http.server import Limits
from pyinterceptor.http.transfer import PUMPED
from pyinterceptor.web import Request, Response
from tests.socket.loopback import in_trio, open_pump, pair, plain, read_all, reset
from tests.socket.served import gets, loopback
from tests.stream.dialogue import GET, http, ok

BODY = bytes(range(256)) * 12_000
SIZE = len(BODY)


async def hello(request: Request) -> Response:
    await request.bytes()
    return Response("hello")


async def pass_on(request: Request) -> Response:
    return await fetch(request)


class Steps(trio.abc.Instrument):
    """Counts how often a task was run."""

    def __init__(self) -> None:
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1


def send_bytewise(end: socket.socket, data: bytes) -> None:
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in data:
        select.select([], [end], [])
        end.send(bytes([byte]))


# --- heads that come slowly -----------------------------------------------------------------------------------------


@in_trio
async def test_a_head_that_comes_byte_by_byte_wakes_few_tasks() -> None:
    steps, head = Steps(), http("GET / HTTP/1.1", "Host: my.kv", "X: " + "y" * 14_000)
    async with loopback(hello) as net:
        client = await net.connect()
        trio.lowlevel.add_instrument(steps)
        await trio.to_thread.run_sync(send_bytewise, client.socket._sock, head)
        await gets(client, ok("hello"))
        trio.lowlevel.remove_instrument(steps)
        await client.send_all(http("POST / HTTP/1.1", "Host: my.kv", "Content-Length: 3"))
        for byte in b"abc":  # the server waits for no more bytes than the body has
            await client.send_all(bytes([byte]))
        await gets(client, ok("hello"))
        await client.aclose()
    assert steps.count < 300


@pytest.mark.parametrize("size", [1, 3, 100])
@in_trio
async def test_a_head_in_many_pieces_is_served_and_so_is_the_next(size: int) -> None:
    request = http("GET / HTTP/1.1", "Host: my.kv", "X: " + "y" * 30 * size)
    async with loopback(hello) as net:
        client = await net.connect()
        for _ in range(2):
            for start in range(0, len(request), size):
                await client.send_all(request[start : start + size])
                await trio.testing.wait_all_tasks_blocked()
            await gets(client, ok("hello"))
        await client.aclose()


@in_trio
async def test_a_slow_head_that_ends_early_ends_its_connection() -> None:
    async with loopback(hello, Limits(farewell=0.1, linger=0.1)) as net:
        client = await net.connect()
        for byte in b"GET / HTTP/1.1\r\nHost: my":
            await client.send_all(bytes([byte]))
            await trio.testing.wait_all_tasks_blocked()
        await client.send_eof()
        assert await client.receive_some() == b""
        await client.aclose()


@in_trio
async def test_a_head_that_never_ends_is_refused_though_its_bytes_wake_nobody() -> None:
    async with loopback(hello, Limits(head=0.3, farewell=0.1, linger=0.1)) as net:
        client = await net.connect()
        for byte in b"GET / HTTP/1.1\r\nHost: my":
            await client.send_all(bytes([byte]))
            await trio.testing.wait_all_tasks_blocked()
        assert (await client.receive_some()).startswith(b"HTTP/1.1 408 ")
        await client.aclose()


# --- leaving --------------------------------------------------------------------------------------------------------


@in_trio
async def test_a_client_that_closes_half_after_its_request_is_answered() -> None:
    async def answer(request: Request) -> Response:
        return Response(str(len(await request.bytes())))

    async with loopback(answer) as net:
        client = await net.connect()
        await client.send_all(http("POST / HTTP/1.1", "Host: my.kv", f"Content-Length: {SIZE}", body=BODY))
        await client.send_eof()
        await gets(client, ok(str(SIZE)))
        await client.aclose()


@pytest.mark.parametrize("end", [lambda client: client.socket.close(), lambda client: reset(client.socket._sock)])
@in_trio
async def test_a_client_that_closes_or_resets_cancels_its_handler(end: Any) -> None:
    started, ended = trio.Event(), trio.Event()

    async def wait(request: Request) -> Response:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with loopback(wait) as net:
        client = await net.connect()
        await client.send_all(GET)
        await started.wait()
        end(client)
        await ended.wait()
        client.socket.close()


@in_trio
async def test_a_client_that_leaves_closes_the_silent_upstream_of_its_response() -> None:
    async with loopback(pass_on) as net:
        client = await net.connect()
        await client.send_all(GET)
        origin = await net.origin()
        await gets(origin, GET)
        await origin.send_all(http("HTTP/1.1 200 OK", "transfer-encoding: chunked", body=b"1\r\nx\r\n"))
        await gets(client, http("HTTP/1.1 200 OK", "transfer-encoding: chunked", body=b"1\r\nx\r\n"))
        await client.aclose()
        assert (await read_all(origin))[0] == b""
        await origin.aclose()


@in_trio
async def test_a_refusal_is_read_though_the_client_still_sends() -> None:
    async def refuse(request: Request) -> Response:
        return Response("no", 405)

    async with loopback(refuse, Limits(linger=5)) as net:
        client = await net.connect(small=True)
        await client.send_all(http("POST / HTTP/1.1", "Host: my.kv", "Content-Length: 3000000"))
        await client.send_all(b"x" * 500_000)
        got, was_reset = await read_all(client)
        assert got.startswith(b"HTTP/1.1 405 Method Not Allowed\r\n")
        assert got.endswith(b"\r\n\r\nno")
        assert not was_reset
        await client.aclose()


# --- full buffers ---------------------------------------------------------------------------------------------------


@in_trio
async def test_a_client_that_does_not_read_holds_the_handler_back_and_is_reset_in_the_end() -> None:
    made, closed = 0, trio.Event()

    async def endless() -> AsyncIterator[bytes]:
        nonlocal made
        try:
            while True:
                made += 1
                yield b"x" * 10_000
        finally:
            closed.set()

    async def answer(request: Request) -> Response:
        return Response(endless())

    async with loopback(answer) as net:
        client = await net.connect(small=True)
        await client.send_all(GET)
        await closed.wait()
        assert made < 300  # 3 MB: the kernel's buffers
        assert (await read_all(client))[1]
        await client.aclose()


@in_trio
async def test_an_origin_is_read_no_faster_than_the_client_reads() -> None:
    async with loopback(pass_on, Limits()) as net:
        client = await net.connect(small=True)
        await client.send_all(GET)
        origin = await net.origin()
        await origin.send_all(http("HTTP/1.1 200 OK", "transfer-encoding: chunked"))
        sent = 0
        with trio.move_on_after(1):
            while True:
                await origin.send_all(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
                sent += 10_000
        assert sent < 20_000_000  # the kernel's buffers alone, none of ours
        await client.aclose()
        await origin.aclose()


# --- lent to a pump -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("early", [0, 1000, SIZE])
@pytest.mark.parametrize("kind", ["Python", "C"])
@in_trio
async def test_a_large_response_moves_by_the_pump_and_both_connections_serve_on(early: int, kind: str) -> None:
    async with open_pump(kind) as pump, loopback(pass_on, pump=pump) as net:
        client = await net.connect()
        origin = None
        head = http("HTTP/1.1 200 OK", f"content-length: {SIZE}")
        for _ in range(2):
            await client.send_all(GET)
            origin = origin or await net.origin()
            await gets(origin, GET)
            async with trio.open_nursery() as nursery:
                await origin.send_all(head + BODY[:early])
                await trio.testing.wait_all_tasks_blocked(0.02)
                nursery.start_soon(origin.send_all, BODY[early:])
                await gets(client, head + BODY)
        assert len(pump.pumped) == 2
        await client.send_all(GET)
        await gets(origin, GET)
        await origin.send_all(http("HTTP/1.1 200 OK", "content-length: 2", body=b"ok"))
        await gets(client, http("HTTP/1.1 200 OK", "content-length: 2", body=b"ok"))
        await client.aclose()
        await origin.aclose()


@pytest.mark.parametrize(
    ("field", "body"),
    [
        (f"content-length: {PUMPED - 1}", BODY[: PUMPED - 1]),
        ("transfer-encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (PUMPED, BODY[:PUMPED])),
    ],
)
@pytest.mark.parametrize("kind", ["Python", "C"])
@in_trio
async def test_small_and_chunked_bodies_are_not_lent(field: str, body: bytes, kind: str) -> None:
    async with open_pump(kind) as pump, loopback(pass_on, pump=pump) as net:
        client = await net.connect()
        await client.send_all(http("GET / HTTP/1.1", "Host: my.kv", "Connection: close"))
        origin = await net.origin()
        await origin.send_all(http("HTTP/1.1 200 OK", field, body=body))
        got, was_reset = await read_all(client)
        assert got.startswith(b"HTTP/1.1 200 OK\r\n")
        assert len(got) > PUMPED
        assert not was_reset
        await client.aclose()
        await origin.aclose()
    assert pump.pumped == []


@pytest.mark.parametrize("expects", [False, True])
@pytest.mark.parametrize("kind", ["Python", "C"])
@in_trio
async def test_a_large_request_body_moves_by_the_pump_and_both_connections_serve_on(expects: bool, kind: str) -> None:
    expect = ["Expect: 100-continue"] if expects else []
    async with open_pump(kind) as pump, loopback(pass_on, pump=pump) as net:
        client = await net.connect()
        origin = None
        for _ in range(2):
            await client.send_all(http("PUT / HTTP/1.1", "Host: my.kv", f"Content-Length: {SIZE}", *expect))
            if expects:
                await gets(client, http("HTTP/1.1 100 Continue"))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send_all, BODY)
                origin = origin or await net.origin()
                await gets(origin, http("PUT / HTTP/1.1", "Host: my.kv", f"Content-Length: {SIZE}", body=BODY))
            await origin.send_all(http("HTTP/1.1 200 OK", "content-length: 2", body=b"ok"))
            await gets(client, http("HTTP/1.1 200 OK", "content-length: 2", body=b"ok"))
        assert len(pump.pumped) == 2
        await client.aclose()
        await origin.aclose()


@pytest.mark.parametrize("who", ["the origin ends", "the origin resets", "the client resets", "nobody moves"])
@pytest.mark.parametrize("kind", ["Python", "C"])
@in_trio
async def test_a_pumped_response_that_cannot_be_whole_ends_in_a_reset_on_both_sides(who: str, kind: str) -> None:
    async with open_pump(kind) as pump, loopback(pass_on, pump=pump) as net:
        client = await net.connect()
        await client.send_all(GET)
        origin = await net.origin()
        await gets(origin, GET)
        head = http("HTTP/1.1 200 OK", f"content-length: {SIZE}")
        await origin.send_all(head + BODY[:400_000])
        await gets(client, head + BODY[:400_000])
        if who == "the origin ends":
            await origin.aclose()
        elif who == "the origin resets":
            reset(origin.socket._sock)
        elif who == "the client resets":
            reset(client.socket._sock)
        if who != "the client resets":
            assert (await read_all(client)) == (b"", True)
            await client.aclose()
        if who not in ("the origin ends", "the origin resets"):
            assert (await read_all(origin)) == (b"", True)
        origin.socket.close()
        client.socket.close()
    assert len(pump.pumped) == 1


@pytest.mark.parametrize("who", ["the client ends", "the client resets", "the origin resets", "the handler gives up"])
@pytest.mark.parametrize("kind", ["Python", "C"])
@in_trio
async def test_a_pumped_request_that_cannot_be_whole_ends_in_a_reset_on_both_sides(who: str, kind: str) -> None:
    failed: list[FetchError] = []

    async def try_to_pass_on(request: Request) -> Response:
        try:
            with trio.move_on_after(0.3 if who == "the handler gives up" else 10):
                return await fetch(request)
        except FetchError as error:
            failed.append(error)
        return Response("gave up", 502)

    async with open_pump(kind) as pump, loopback(try_to_pass_on, pump=pump) as net:
        client = await net.connect()
        head = http("PUT / HTTP/1.1", "Host: my.kv", f"Content-Length: {SIZE}")
        await client.send_all(head + BODY[:400_000])
        origin = await net.origin()
        await gets(origin, head + BODY[:400_000])
        if who == "the client ends":
            await client.send_eof()
        elif who == "the client resets":
            reset(client.socket._sock)
        elif who == "the origin resets":
            reset(origin.socket._sock)
        if who != "the origin resets":
            assert (await read_all(origin)) == (b"", True)
        if who != "the client resets":
            got, _ = await read_all(client)
            assert got.startswith(b"HTTP/1.1 502 ")
            assert b"\r\nconnection: close\r\n" in got
        client.socket.close()
        origin.socket.close()
    assert len(pump.pumped) == 1


@pytest.mark.parametrize("kind", ["Python", "C"])
@in_trio
async def test_an_early_answer_stops_the_pump_and_is_heard(kind: str) -> None:
    async with open_pump(kind) as pump, loopback(pass_on, pump=pump) as net:
        client = await net.connect()
        await client.send_all(http("PUT / HTTP/1.1", "Host: my.kv", f"Content-Length: {SIZE}") + b"x" * 400_000)
        origin = await net.origin()
        await origin.send_all(http("HTTP/1.1 413 Content Too Large", "content-length: 2", body=b"no"))
        got, _ = await read_all(client)
        assert got.startswith(b"HTTP/1.1 413 ")
        assert got.endswith(b"\r\n\r\nno")
        await client.aclose()
        await origin.aclose()


@pytest.mark.parametrize("kind", ["Python", "C"])
@in_trio
async def test_cancelled_while_pumping_both_sides_see_a_reset(kind: str) -> None:
    async with open_pump(kind) as pump, loopback(pass_on, pump=pump) as net:
        with trio.CancelScope() as scope:
            theirs, ours = pair()
            client = plain(theirs)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(net._serve, ours)
                await client.send_all(GET)
                origin = await net.origin()
                await gets(origin, GET)
                head = http("HTTP/1.1 200 OK", f"content-length: {SIZE}")
                await origin.send_all(head + BODY[:400_000])
                await gets(client, head + BODY[:400_000])
                scope.cancel()
        assert (await read_all(client)) == (b"", True)
        assert (await read_all(origin)) == (b"", True)
        await client.aclose()
        await origin.aclose()
