"""The body of the request that is being served, read off the wire as it is asked for. RFC 9112 sections 6 and 7.

Its state is kept between reads: a reader that is cancelled, or leaves in the middle, loses nothing, and the next
request is found all the same.
"""

from __future__ import annotations

import re
from typing import Any, Protocol

import trio

from pyinterceptor._relay import lib
from pyinterceptor.errors import PeerError
from pyinterceptor.http.wire import Wire

SIZE_LINE = re.compile(rb"([0-9a-fA-F]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*)?")
CHECKPOINT_EVERY = 64  # chunks
SIZE_LINE_MAX = 1024  # bytes of a chunk's size and extensions
TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Client(Protocol):
    """Where an interim response is sent; `socket` is None where its bytes aren't the body's."""

    @property
    def socket(self) -> Any: ...

    async def send_all(self, data: bytes) -> None: ...


class Incoming:
    """An async iterator of the body's bytes; it may be left and taken up again. `kind` is one of lib.BODY_*.

    Raises: PeerError where the body is malformed, breaks off, or stalls for `stall` seconds; RuntimeError when the
    request is over.
    """

    def __init__(self, wire: Wire, client: Client, kind: int, length: int, *, expects: bool, stall: float) -> None:
        self._wire = wire
        self._client = client
        self._stall = stall
        self._expects = expects  # 100 (Continue) is sent when the body is first asked for
        self._inviting: trio.Event | None = None
        self._is_chunked = kind == lib.BODY_CHUNKED
        self.length = None if self._is_chunked else length
        self._left = 0 if self._is_chunked else length  # bytes, of the body or of the chunk that was begun
        self._is_in_chunk = False  # its last CRLF is still to come
        self._is_in_trailers = False
        self._trailers = 0  # bytes
        self._chunks = 0
        self._is_read = False  # by somebody, now
        self._is_over = False
        self._is_broken = False
        self.is_done = False

    def __aiter__(self) -> Incoming:
        return self

    async def __anext__(self) -> bytes:
        if self._is_over:
            raise RuntimeError("the request is over: its body can't be read any more")
        self._is_read = True
        try:
            await self.invite()
            part = await self._part()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._broken("the client has left") from error
        finally:
            self._is_read = False
        if not part:
            raise StopAsyncIteration
        return part

    async def invite(self) -> None:
        """Lets a client that waits for it send the body."""
        if self._inviting is not None:
            await self._inviting.wait()
        if not self._expects:
            return
        self._expects, self._inviting = False, trio.Event()
        try:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + self._stall) as scope:  # all, or nothing
                await self._client.send_all(CONTINUE)
        finally:
            self._inviting.set()
        if scope.cancelled_caught:
            raise trio.BrokenResourceError("the client takes nothing")

    async def precede(self, drain: int, *, is_streamed: bool) -> bool:
        """The response begins now; True if the next request may be found after at most `drain` bytes of this one.

        A streamed response may be made of this body, so the client is asked for it before.
        """
        if is_streamed or self._inviting is not None:
            await self.invite()
        if self._is_broken or self._expects:
            return False
        return is_streamed or (not self._is_read and (self._is_chunked or self._left <= drain))

    async def drain(self, most: int) -> bool:
        """Reads what the handler left, up to `most` bytes; True if the next request is found."""
        try:
            while not (self.is_done or self._is_read or self._is_broken) and most >= 0:
                most -= len(await self._part())
        except PeerError:
            return False
        return self.is_done and not self._is_read

    async def end(self) -> None:
        """Nobody reads this body any more, and nothing is written for its sake."""
        self._is_over = True
        if self._inviting is not None:
            await self._inviting.wait()

    # The body as a web.body.Source.

    @property
    def source(self) -> Incoming | None:
        return None if self._is_chunked or self._is_over or self.socket is None else self

    @property
    def socket(self) -> Any:
        return self._client.socket

    @property
    def remaining(self) -> int:
        return max(0, self._left - len(self._wire))

    async def take(self) -> bytes:
        self._is_read = True
        await self.invite()
        return self._some()

    async def moved(self, count: int) -> None:
        self._is_read = False
        self._left -= count
        self._wire.taken += count
        self.is_done = not self._left
        self._is_broken = not self.is_done

    # How it is framed.

    async def _part(self) -> bytes:
        """Some bytes, none at the end."""
        while not self.is_done:
            if not self._left and self._is_chunked:
                await self._begin_chunk()
            elif not self._wire:
                await self._more()
            else:
                return self._some()
        return b""

    def _some(self) -> bytes:
        taken = self._wire.take(self._left)
        self._left -= len(taken)
        self.is_done = not self._left and not self._is_chunked
        return taken

    async def _begin_chunk(self) -> None:
        """Reads up to the next chunk's data, or to the end."""
        self._chunks += 1
        if self._chunks % CHECKPOINT_EVERY == 0:  # a read may bring thousands of them
            await trio.lowlevel.checkpoint()
        if self._is_in_chunk:
            if await self._line(0):
                raise self._broken("a chunk is longer than its size")
            self._is_in_chunk = False
        if not self._is_in_trailers:
            size = SIZE_LINE.fullmatch(await self._line(SIZE_LINE_MAX))
            if size is None:
                raise self._broken("a chunk's size is malformed")
            self._left = int(size[1], 16)
            self._is_in_chunk = bool(self._left)
            self._is_in_trailers = not self._left
        while self._is_in_trailers and not self.is_done:
            line = await self._line(lib.HEAD_MAX)
            self._trailers += len(line)
            if self._trailers > lib.HEAD_MAX or (line and not TRAILER.fullmatch(line)):
                raise self._broken("the trailers are malformed")
            self.is_done = not line

    async def _line(self, most: int) -> bytes:
        """One line without its CRLF."""
        while (end := self._wire.find_line()) < 0:
            if len(self._wire) > most + 1:
                raise self._broken("a line of the body is too long")
            await self._more()
        if end > most:
            raise self._broken("a line of the body is too long")
        return self._wire.take(end + 2)[:-2]

    async def _more(self) -> None:
        try:
            with trio.fail_after(self._stall):
                if not await self._wire.more():
                    raise self._broken("the body broke off")
        except trio.TooSlowError as error:
            raise self._broken("the body came too slowly", 408) from error

    def _broken(self, why: str, status: int = 400) -> PeerError:
        self._is_broken = True
        return PeerError(why, status)
