"""The internet of the stream tests: the test itself is every origin."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing

from pyinterceptor.http.client import Client, open_client
from pyinterceptor.http.dial import Decides, Dialled
from pyinterceptor.web import Request, Response
from tests.stream.dialogue import Client as Speaker
from tests.stream.dialogue import MemoryConnection


class Origin(Speaker):
    """The origin's end of one accepted connection."""

    async def hears_the_end(self) -> None:
        """Asserts that the client closes the connection without sending more."""
        try:
            data = await self.stream.receive_some()
        except trio.BrokenResourceError:
            data = b""
        assert self._heard + data == b""

    def is_closed(self) -> bool:
        return bool(self.stream.send_stream.is_broken)


class Coming:
    """A fetch that runs while the test plays the origin."""

    def __init__(self) -> None:
        self._done = trio.Event()
        self._response: Response | None = None
        self._error: Exception | None = None
        self.scope = trio.CancelScope()

    async def run(self, fetch: Any) -> None:
        with self.scope:
            try:
                self._response = await fetch()
            except Exception as error:
                self._error = error
        self._done.set()

    @property
    def is_done(self) -> bool:
        return self._done.is_set()

    async def response(self) -> Response:
        await self._done.wait()
        if self._error is not None:
            raise self._error
        assert self._response is not None
        return self._response


class Unguarded:
    """A dialler without a resolver and a guard: `dial(host, port, local, at)` makes the connections."""

    def __init__(self, dial: Callable[[str, int, bool, str | None], Awaitable[trio.abc.Stream]]) -> None:
        self._dial = dial
        self.guarded: set[str] = set()  # addresses whose connections may not be used again

    async def __call__(
        self, host: str, port: int, local: bool, at: str | None, decides: Decides | None
    ) -> Dialled:
        return Dialled(await self._dial(host, port, local, at), at or "198.51.100.1")

    def may_use(self, ip: str, port: int, local: bool, decides: Decides | None) -> bool:
        return ip not in self.guarded and (decides is None or decides(ip, port))


class Internet(Unguarded):
    """An internet with one client. `dialled` waits for the next connection that `client` dials."""

    def __init__(self, nursery: trio.Nursery) -> None:
        super().__init__(self.dial)
        self.client: Client
        self.nursery = nursery
        self.dials = 0
        self._send, self._receive = trio.open_memory_channel[Any](100)

    async def dial(self, host: str, port: int, local: bool, at: str | None) -> trio.abc.Stream:
        self.dials += 1
        ours, theirs = trio.testing.memory_stream_pair()
        await self._send.send(((host, port, local, at), Origin(theirs, MemoryConnection(theirs))))
        return ours

    async def dialled(self, host: str = "my.kv", port: int = 80, local: bool = False, at: str | None = None) -> Origin:
        where, origin = await self._receive.receive()
        assert where == (host, port, local, at)
        return origin

    def fetch(self, request: Request | str, **options: Any) -> Coming:
        asked = Request(request) if isinstance(request, str) else request
        return self.start(lambda: self.client.fetch(asked, **options))

    def start(self, fetch: Any) -> Coming:
        coming = Coming()
        self.nursery.start_soon(coming.run, fetch)
        return coming


@asynccontextmanager
async def internet() -> AsyncIterator[Internet]:
    async with trio.open_nursery() as nursery:
        made = Internet(nursery)
        async with open_client(made) as made.client:
            yield made
