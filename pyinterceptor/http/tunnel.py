"""A connection that has switched to another protocol, such as WebSocket: bytes are copied in both directions, unread.

RFC 9110 section 7.8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import trio

from pyinterceptor.http.exchange import Exchange
from pyinterceptor.http.fields import end_to_end, upgrade_of
from pyinterceptor.web import Body, Headers, Response


class Switched(Response):
    """An origin's 101 response and its connection, which is closed with the response.

    `held` returns a context manager around the tunnel. It may cancel the block and raise trio.BrokenResourceError.
    """

    __slots__ = ("exchange", "held", "protocol")

    def __init__(self, exchange: Exchange, fields: Sequence[tuple[str, str]]) -> None:
        super().__init__(Body(exchange), headers=Headers.parsed(end_to_end(fields)))
        self._status = 101
        self.exchange = exchange
        self.held: Callable[[], AbstractContextManager[None]] = nullcontext
        self.protocol = upgrade_of(fields)

    def head(self) -> bytes:
        """Returns the head of the response for the client."""
        lines = ["HTTP/1.1 101 Switching Protocols"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        lines += ["connection: upgrade", f"upgrade: {self.protocol}", "\r\n"]
        return "\r\n".join(lines).encode("latin-1")


class End(Protocol):
    """One side of the tunnel. It has a method `send_eof` if it can be half-closed; TLS can't."""

    async def receive_some(self) -> bytes | bytearray: ...
    async def send_all(self, data: bytes | bytearray) -> None: ...


async def copy_both_ways(client: End, origin: End, moved: Callable[[], None]) -> None:
    """Copies until both sides have ended, or one side that can't be half-closed has. Calls `moved` after each copy.

    Raises trio.BrokenResourceError if either side breaks.
    """
    failure: trio.BrokenResourceError | trio.ClosedResourceError | None = None

    async def copy(source: End, sink: End) -> None:
        nonlocal failure
        try:
            while data := await source.receive_some():
                await sink.send_all(data)
                moved()
            send_eof = getattr(sink, "send_eof", None)
            if send_eof is None:
                nursery.cancel_scope.cancel()
            else:
                await send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            failure = error
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(copy, client, origin)
        nursery.start_soon(copy, origin, client)
    if failure is not None:
        raise trio.BrokenResourceError("a side of the tunnel broke") from failure
