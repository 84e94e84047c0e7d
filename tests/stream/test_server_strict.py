"""Refusals of the server: ambiguous heads, messages that are too large, clients that are too slow."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from pyinterceptor.http.connection import Limits
from pyinterceptor.http.deadlines import PERIOD
from pyinterceptor.http.server import open_server
from pyinterceptor.web import Request, Response
from tests.stream.dialogue import (
    DATE,
    GET,
    Client,
    MemoryConnection,
    answer_ok,
    answering,
    http,
    in_trio,
    ok,
    serving,
)
from tests.unit.test_frame import AMBIGUOUS


async def nobody(request: Request) -> Response:
    raise AssertionError(f"a handler was asked: {request}")


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize(("head", "answer"), AMBIGUOUS)
@in_trio
async def test_an_ambiguous_head_is_refused_and_nothing_after_it_is_a_request(
    head: bytes, answer: int, bytewise: bool
) -> None:
    async with serving(nobody) as client:
        await client.sends(head[:-1] if bytewise else head + GET, bytewise=bytewise and len(head) < 1000)
        if bytewise:
            await client.sends(head[-1:] + GET)
        await client.gets_a_refusal(answer)


@pytest.mark.parametrize(
    "head",
    [
        http("GET /#fragment HTTP/1.1", "Host: my.kv"),
        http("GET http://my.kv#fragment HTTP/1.1", "Host: my.kv"),
        http("GET https://my.kv/ HTTP/1.1", "Host: my.kv"),
        http("GET / HTTP/1.1", "Host: my.kv:65536"),
        http("GET http://my.kv:99999/ HTTP/1.1", "Host: my.kv:99999"),
        http("get my.kv HTTP/1.1", "Host: my.kv"),
    ],
)
@in_trio
async def test_a_target_that_could_be_read_in_two_ways_is_refused(head: bytes) -> None:
    async with serving(nobody) as client:
        await client.sends(head + GET)
        await client.gets_a_refusal(400)


@pytest.mark.parametrize(
    "head",
    [
        http("CONNECT my.kv:443 HTTP/1.1", "Host: my.kv:443"),
        http("connect my.kv:443 HTTP/1.1", "Host: my.kv:443"),
        http("TRACE / HTTP/1.1", "Host: my.kv"),
    ],
)
@in_trio
async def test_connect_and_trace_are_refused_with_the_allowed_methods(head: bytes) -> None:
    async with serving(nobody) as client:
        await client.sends(head + GET)
        allow = "allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
        await client.gets(http("HTTP/1.1 405 Method Not Allowed", allow)[:-2])


@in_trio
async def test_heads_up_to_the_limit_are_taken() -> None:
    fields = [f"X-{number}: {'y' * 100}" for number in range(127)]
    async with serving(answer_ok) as client:
        await client.sends(http("GET / HTTP/1.1", "Host: my.kv", *fields))
        await client.gets(ok())
        await client.sends(http("GET / HTTP/1.1", "Host: my.kv", *fields, "One: more"))
        await client.gets_a_refusal(431)


# --- deadlines ------------------------------------------------------------------------------------------------------


@in_trio
async def test_a_connection_without_a_request_is_closed_after_a_while() -> None:
    async with serving(answer_ok, Limits(idle=30)) as client:
        await client.sends(GET)
        await client.gets(ok())
        began = trio.current_time()
        await client.gets_nothing_more()
        assert 30 - PERIOD <= trio.current_time() - began <= 30 + PERIOD


@in_trio
async def test_a_head_that_comes_too_slowly_is_408() -> None:
    async with serving(nobody, Limits(head=10)) as client:
        began = trio.current_time()
        await client.sends(GET[:-1], bytewise=True)
        await client.gets_a_refusal(408)
        assert 10 <= trio.current_time() - began < 10.1


@in_trio
async def test_a_head_that_comes_byte_by_byte_has_one_deadline_for_all_of_it() -> None:
    async with serving(nobody, Limits(head=10)) as client:
        for byte in GET[:11]:
            await client.stream.send_all(bytes([byte]))
            await trio.sleep(0.99)
        await client.gets_a_refusal(408)


@in_trio
async def test_a_handler_may_take_its_time() -> None:
    async def take_long(request: Request) -> Response:
        await trio.sleep(1000)
        return Response("ok")

    async with serving(take_long) as client:
        await client.sends(GET * 2)
        await client.gets(ok() * 2)


def pair_that_waits() -> tuple[Client, MemoryConnection]:
    """Returns a connection whose sender waits until its bytes are read, as if buffers were always full."""
    ours, theirs = trio.testing.lockstep_stream_pair()
    connection = MemoryConnection(theirs)
    return Client(ours, connection), connection


@pytest.mark.parametrize("size", [2, 3_000_000])
@in_trio
async def test_a_client_that_does_not_read_its_response_is_reset(size: int) -> None:
    async with serving(answering(lambda: Response(b"x" * size)), Limits(stall=20), make=pair_that_waits) as client:
        await client.sends(GET)
        began = trio.current_time()
        await trio.sleep(30)
        assert client.connection.was_reset
        assert trio.current_time() - began >= 20 - PERIOD


@in_trio
async def test_a_client_that_reads_slowly_gets_all_of_it() -> None:
    size, got = 3_000_000, 0
    async with serving(answering(lambda: Response(b"x" * size)), Limits(stall=20), make=pair_that_waits) as client:
        await client.sends(GET)
        while got < size:
            got += len(await client.stream.receive_some(50_000))
            await trio.sleep(5)
        assert not client.connection.was_reset


@in_trio
async def test_a_stream_is_made_no_faster_than_it_is_read() -> None:
    made = 0

    async def make() -> AsyncIterator[bytes]:
        nonlocal made
        while True:
            made += 1
            yield b"x" * 1000

    async with serving(answering(lambda: Response(make())), make=pair_that_waits) as client:
        await client.sends(GET)
        for _ in range(10):
            await client.stream.receive_some(1000)
            await trio.testing.wait_all_tasks_blocked()
        assert made <= 11
        await client.stream.aclose()


@in_trio
async def test_a_body_is_taken_no_faster_than_it_is_read() -> None:
    wanted = trio.Event()

    async def read_late(request: Request) -> Response:
        await wanted.wait()
        return Response(str(len(await request.bytes())))

    async with serving(read_late, make=pair_that_waits) as client, trio.open_nursery() as nursery:
        await client.sends(http("POST / HTTP/1.1", "Host: my.kv", "Content-Length: 1000"))
        sent = 0

        async def send() -> None:
            nonlocal sent
            for _ in range(10):
                await client.stream.send_all(b"x" * 100)
                sent += 100

        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        assert sent == 0
        wanted.set()
        await client.gets(ok("1000"))
        await trio.testing.wait_all_tasks_blocked()
        assert sent == 1000


# --- cancellation ---------------------------------------------------------------------------------------------------


class Countdown(MemoryConnection):
    """Cancels its server at the n-th call, before or after the bytes have moved."""

    def __init__(self, inner: MemoryConnection, calls: int, scope: trio.CancelScope, *, is_after: bool) -> None:
        super().__init__(inner._stream)
        self._left = calls
        self._scope = scope
        self._is_after = is_after

    @property
    def has_fired(self) -> bool:
        return self._left <= 0

    async def receive_some(self) -> bytes:
        return await self._counted(super().receive_some)

    async def send_all(self, data: bytes | memoryview) -> None:
        await self._counted(super().send_all, data)

    async def _counted(self, call, *arguments):
        self._left -= 1
        if self._left == 0 and not self._is_after:
            self._scope.cancel()
        result = await call(*arguments)
        if self._left == 0:
            self._scope.cancel()
        return result


@pytest.mark.parametrize("is_after", [False, True])
@in_trio
async def test_cancelled_at_any_call_a_server_leaves_nothing_that_looks_whole(is_after: bool) -> None:
    opened: list[int] = []
    closed: list[int] = []

    async def parts(number: int) -> AsyncIterator[bytes]:
        opened.append(number)
        try:
            yield b"one"
            await trio.lowlevel.checkpoint()
            yield b"two"
        finally:
            closed.append(number)

    asked = 0

    async def respond(request: Request) -> Response:
        nonlocal asked
        asked += 1
        await request.bytes()
        return Response(parts(asked))

    question = http("POST / HTTP/1.1", "Host: my.kv", "Content-Length: 5", "Expect: 100-continue")
    answer = http("HTTP/1.1 100 Continue") + http(
        "HTTP/1.1 200 OK", "transfer-encoding: chunked", body=b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
    )
    for calls in range(1, 40):
        ours, theirs = trio.testing.memory_stream_pair()
        asked, opened[:], closed[:] = 0, [], []
        with trio.CancelScope() as scope:
            connection = Countdown(MemoryConnection(theirs), calls, scope, is_after=is_after)
            client = Client(ours, connection)
            await client.sends((question + b"hello") * 2)
            await client.stream.send_eof()
            async with open_server() as server:
                await server.serve(connection, respond, scheme="http", destination=("198.51.100.7", 80))
        assert closed == opened
        if not connection.was_reset:
            connection.close()
        got = await everything(client)
        whole = got.count(b"0\r\n\r\n")
        assert (answer * 2).startswith(got)
        is_whole = got in (b"", answer[:25], answer, answer + answer[:25], answer * 2)
        assert is_whole or connection.was_reset
        if not connection.has_fired:
            assert whole == 2
            return
    raise AssertionError("never done")


async def everything(client: Client) -> bytes:
    got = b""
    while True:
        try:
            data = await client.stream.receive_some()
        except trio.BrokenResourceError:
            return got
        if not data:
            return DATE.sub(b"", got)
        got += data
