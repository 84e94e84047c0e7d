"""Our server and our client over real sockets, between a test's container and its origin."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing

from pyinterceptor.http.client import Client, open_client
from pyinterceptor.http.connecting import connect
from pyinterceptor.http.fetch import FetchScope
from pyinterceptor.http.server import Limits, open_server
from pyinterceptor.relay.hub import Hub
from pyinterceptor.web import Request, Response
from tests.socket.loopback import Counted, open_hub, pair, plain
from tests.stream.dialogue import DATE
from tests.stream.origins import Unguarded

QUICK = Limits(farewell=0.1, linger=0.1, stall=0.5)


class Loopback:
    """A server for the connections that `connect` makes. Its handlers' fetches arrive at `origin`."""

    def __init__(self, hub: Hub, nursery: trio.Nursery, respond: Any, limits: Limits, pump: Counted | None) -> None:
        self.hub = hub
        self.client: Client
        self.server: Any
        self.pump = pump
        self.limits = limits
        self.ended = 0
        self._nursery = nursery
        self._respond = respond
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)

    async def dial(self, host: str, port: int, local: bool, at: str | None) -> trio.abc.Stream:
        return self.hub.stream(await connect(None, *self._listener.getsockname()[:2]))

    async def origin(self) -> trio.SocketStream:
        """Returns the origin's end of the next connection that was dialled."""
        await trio.lowlevel.wait_readable(self._listener)
        return plain(self._listener.accept()[0])

    async def connect(self, *, small: bool = False) -> trio.SocketStream:
        theirs, ours = pair(small=small)
        self._nursery.start_soon(self._serve, ours)
        return plain(theirs)

    async def _serve(self, ours: socket.socket) -> None:
        stream = self.hub.stream(ours)

        async def respond(request: Request) -> Response:
            scope, response = FetchScope(self.client), None
            try:
                with scope:
                    response = await self._respond(request)
                return response
            finally:
                if scope.has_fetched:
                    await scope.let_go(response)

        try:
            where = ("127.0.0.1", 80)
            await self.server.serve(stream, respond, scheme="http", destination=where, pump=self.pump)
        finally:
            self.ended += 1
            stream.close_nowait()

    def close(self) -> None:
        self._listener.close()


@asynccontextmanager
async def loopback(
    respond: Callable[[Request], Any], limits: Limits = QUICK, pump: Counted | None = None
) -> AsyncIterator[Loopback]:
    async with open_hub() as hub, trio.open_nursery() as nursery:
        made = Loopback(hub, nursery, respond, limits, pump)
        async with open_client(Unguarded(made.dial), pump=pump) as made.client, open_server(limits) as made.server:
            yield made
            made.close()
            while nursery.child_tasks:  # the test fails by its deadline if a connection doesn't end by itself
                await trio.testing.wait_all_tasks_blocked(0.05)


async def gets(stream: trio.SocketStream, expected: bytes) -> None:
    """Asserts that the stream's next bytes are exactly these, except for Date fields."""
    got = b""
    while len(got) < len(expected):
        data = await stream.receive_some(65536)
        assert data, got[-200:]
        got = DATE.sub(b"", got + data) if len(got) < 1000 else got + data
    assert hashlib.sha256(got).hexdigest() == hashlib.sha256(expected).hexdigest(), got[:200]
