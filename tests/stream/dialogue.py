"""A client and a server in memory, and a clock that jumps, for the stream tests."""

from __future__ import annotations

import functools
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing

from pyinterceptor.http.server import Limits, open_server
from pyinterceptor.web import Request, Response

DATE = re.compile(rb"date: [^\r]*\r\n")
PATIENCE = 10_000.0  # seconds of the jumping clock; a longer wait counts as endless


def in_trio(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Runs an async test on a clock that jumps to the next deadline once all tasks are blocked."""

    @functools.wraps(test)
    def run(**arguments: Any) -> None:
        async def main() -> None:
            with trio.fail_after(PATIENCE):
                await test(**arguments)

        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

    return run


def http(*lines: str, body: bytes = b"") -> bytes:
    """Returns an HTTP message with these lines in its head, and a body."""
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


GET = http("GET / HTTP/1.1", "Host: my.kv")


def ok(body: str = "ok", *fields: str) -> bytes:
    """Returns the bytes of a handler's `Response(body)`."""
    text = "content-type: text/plain; charset=utf-8"
    return http("HTTP/1.1 200 OK", text, f"content-length: {len(body)}", *fields, body=body.encode())


class MemoryConnection:
    """The server's end of a connection, with the interface of `HubStream`. `was_reset`: whether it was reset."""

    socket = None

    def __init__(self, stream: trio.StapledStream[Any, Any]) -> None:
        self._stream = stream
        self.has_left = False
        self.on_leave: Callable[[bool], None] | None = None
        self.was_reset = False

    def has_unread(self) -> bool:
        return False

    def leave(self, *, is_reset: bool) -> None:
        """Simulates the arrival of the client's FIN or RST."""
        self.has_left = True
        if self.on_leave is not None:
            self.on_leave(is_reset)

    async def receive_some(self) -> bytes:
        return bytes(await self._stream.receive_some())

    async def receive_sparsely(self, seconds: float) -> bytes | None:
        return await self.receive_some()

    async def send_all(self, data: bytes | memoryview) -> None:
        await self._stream.send_all(data)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    def reset(self) -> None:
        self.was_reset = True
        self.close()

    def close(self) -> None:
        for end in (self._stream.send_stream, self._stream.receive_stream):
            end.close()  # memory streams can close synchronously


class Client:
    """A client's end of a connection."""

    def __init__(self, stream: trio.StapledStream[Any, Any], connection: MemoryConnection) -> None:
        self.stream = stream
        self.connection = connection
        self._heard = b""

    async def sends(self, data: bytes, *, bytewise: bool = False) -> None:
        for start in range(0, len(data), 1 if bytewise else len(data) or 1):
            await self.stream.send_all(data[start : start + 1] if bytewise else data)
            if bytewise:
                await trio.testing.wait_all_tasks_blocked()

    async def gets(self, expected: bytes) -> None:
        """Asserts that the next bytes are exactly these, except for Date fields."""
        while len(self._heard) < len(expected) and expected.startswith(self._heard):
            data = await self.stream.receive_some()
            self._heard = DATE.sub(b"", self._heard + data)
            if not data:
                break
        assert self._heard[: len(expected)] == expected
        self._heard = self._heard[len(expected) :]

    async def gets_a_refusal(self, status: int) -> None:
        """Asserts that an error response with this status, and any text, comes next and ends the connection."""
        while data := await self.stream.receive_some():
            self._heard += data
        head, _, body = self._heard.partition(b"\r\n\r\n")
        self._heard = b""
        assert head.startswith(b"HTTP/1.1 %d " % status), head
        assert b"\r\nconnection: close" in head
        assert b"\r\ncontent-length: %d\r\n" % len(body) in head
        assert body.startswith(b"pyinterceptor: ")

    async def gets_nothing_more(self) -> None:
        """Asserts that the server ends the connection without sending more."""
        try:
            data = await self.stream.receive_some()
        except trio.BrokenResourceError:
            data = b""
        assert self._heard + data == b""

    async def closes(self) -> None:
        await self.stream.aclose()


def pair() -> tuple[Client, MemoryConnection]:
    ours, theirs = trio.testing.memory_stream_pair()
    connection = MemoryConnection(theirs)
    return Client(ours, connection), connection


Respond = Callable[[Request], Awaitable[Response]]


@asynccontextmanager
async def serving(
    respond: Respond,
    limits: Limits | None = None,
    *,
    destination: tuple[str, int] = ("198.51.100.7", 80),
    make: Callable[[], tuple[Client, MemoryConnection]] = pair,
) -> AsyncIterator[Client]:
    """Yields a client that a server serves. At the end of the block the client closes, and the server must finish."""
    client, connection = make()
    async with open_server(limits) as server, trio.open_nursery() as nursery:

        async def serve() -> None:
            try:
                await server.serve(connection, respond, scheme="http", destination=destination)
            finally:
                connection.close()

        nursery.start_soon(serve)
        yield client
        await client.closes()


async def answer_ok(request: Request) -> Response:
    return Response("ok")


def answering(response: Callable[[], Response]) -> Respond:
    """Returns a handler that answers each request with a new response from `response`."""

    async def respond(request: Request) -> Response:
        return response()

    return respond


async def echo(request: Request) -> Response:
    """Reads the whole body, then answers with it."""
    return Response(await request.bytes())
