"""One request and its response on one connection.

The request's body is sent while the response is read, so that an early answer is heard. The response's body is read as
it is asked for: who doesn't read holds the origin back.
"""

from __future__ import annotations

import select
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import cast

import trio

from pyinterceptor.errors import FetchError, PeerError
from pyinterceptor.http.pool import Origin
from pyinterceptor.http.reply import ReplyHead, ReplyParser
from pyinterceptor.http.wire import LAST_CHUNK, chunk
from pyinterceptor.web import Body

RECEIVE = 64 * 1024  # bytes asked of the socket at once
AT_ONCE = 16 * 1024  # bytes of a body that goes out with its head: they fit any socket buffer


class Unanswered(FetchError):
    """The connection ended before a byte of the response: on a used one, the origin had most likely let go of it."""


class Connection:
    """Takes the stream; `transport` is the one below TLS, the same where there is none."""

    def __init__(self, origin: Origin, stream: trio.abc.Stream, transport: trio.abc.Stream) -> None:
        self.origin = origin
        self.stream = stream
        self.transport = transport
        self.name = f"{origin.host}:{origin.port}"

    @property
    def is_plain(self) -> bool:
        return self.stream is self.transport

    def is_stale(self) -> bool:
        """Something came while it was idle: its end, or bytes that nobody asked for."""
        below = getattr(self.transport, "socket", None)
        if below is None:
            return False
        poll = select.poll()
        poll.register(below.fileno(), select.POLLIN | select.POLLRDHUP)
        return bool(poll.poll(0))

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self.stream)


GiveBack = Callable[[Connection, bool], Awaitable[None]]


class Exchange:
    """Takes the connection; gives it back with whether it may serve another request.

    An async iterator of the response body's chunks once `start` has returned; `aclose` ends it early.
    """

    def __init__(self, connection: Connection, method: str, give_back: GiveBack) -> None:
        self.connection = connection
        self.parser = ReplyParser(method)
        self._give_back = give_back
        self._is_heard = False
        self._is_ended = False
        self._is_closed = False
        self._uploading = trio.CancelScope()
        self._upload_left = trio.Event()
        self._is_sent = False
        self._source_failure: BaseException | None = None

    async def start(self, head: bytes, body: Body, nursery: trio.Nursery) -> ReplyHead:
        """Sends the request, in `nursery` where it may take long, and reads the response's head.

        Raises: FetchError, Unanswered among them. The connection is given back then.
        """
        try:
            if body.content is not None and len(body.content) <= AT_ONCE:
                await self._upload(head + body.content, None)
            else:
                nursery.start_soon(self._upload, head, body)
            while self.parser.head is None:
                await self._read()
        except BaseException:
            await self._end(reusable=False)
            raise
        return self.parser.head

    def __aiter__(self) -> Exchange:
        return self

    async def __anext__(self) -> bytes:
        while not self.parser.chunks:
            if self._is_closed:
                raise FetchError(f"receive from {self.connection.name}: the response was closed before it was read")
            if self.parser.is_done:
                raise StopAsyncIteration
            try:
                await self._read()
            except FetchError:
                await self._end(reusable=False)
                raise
        return self.parser.chunks.popleft()

    def source(self) -> Source | None:
        """What moves the rest of the body without us: where it is of known length, not begun, and not in TLS."""
        head, connection = self.parser.head, self.connection
        if head is None or head.length is None or self.parser.is_done or not connection.is_plain:
            return None
        return Source(self, connection.stream, head.length - self.parser.received)

    async def pumped(self, moved: int, remaining: int) -> None:
        """Others have taken `moved` bytes of the body off the socket. Raises: FetchError where that isn't all."""
        head = self.parser.head
        assert head is not None
        self._is_closed = True
        await self._end(reusable=moved == remaining and head.keeps_alive)
        if moved != remaining:
            cut = remaining - moved
            raise FetchError(f"receive from {self.connection.name}: response body cut off {cut} bytes before its end")

    async def aclose(self) -> None:
        """Gives up what of the response wasn't read."""
        if not self.parser.is_done:
            self._is_closed = True
            self.parser.chunks.clear()
        await self._end(reusable=False)

    async def _read(self) -> None:
        """Reads once; ends the exchange where the response ends."""
        try:
            data = await self._receive()
            if data:
                self._is_heard = True
                self.parser.feed(data)
            else:
                self.parser.feed_eof()
        except PeerError as error:
            kind = FetchError if self._is_heard else Unanswered
            raise kind(f"receive from {self.connection.name}: {error}") from error
        if self.parser.is_done:
            await self._end(reusable=self.parser.is_reusable)

    async def _receive(self) -> bytes:
        try:
            return bytes(await self.connection.stream.receive_some(RECEIVE))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            if self._source_failure is not None:
                why = f"send the request body to {self.connection.name}: {self._source_failure}"
                raise FetchError(why) from self._source_failure
            kind = FetchError if self._is_heard else Unanswered
            raise kind(f"receive from {self.connection.name}: {reason(error)}") from error

    async def _upload(self, head: bytes, body: Body | None) -> None:
        """Sends it all, or as much as the origin takes: its response tells what it thinks of the rest."""
        try:
            with self._uploading:
                await trio.lowlevel.checkpoint_if_cancelled()
                await self.connection.stream.send_all(head)
                if body is not None:
                    await self._send_body(body)
                self._is_sent = True
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        except _SourceFailed as failure:
            self._source_failure = failure.__cause__
            await self.connection.aclose()  # wakes who waits for the response
        finally:
            self._upload_left.set()

    async def _send_body(self, body: Body) -> None:
        send_all, is_chunked = self.connection.stream.send_all, body.length is None
        try:
            async with aclosing(_parts(body)) as parts:
                async for part in parts:
                    await send_all(chunk(part) if is_chunked else part)
            if is_chunked:
                await send_all(LAST_CHUNK)
        finally:
            if body.is_used:
                await body.aclose()

    async def _end(self, *, reusable: bool) -> None:
        """Stops the upload and gives the connection back, once."""
        if self._is_ended:
            return
        self._is_ended = True
        with trio.CancelScope(shield=True):
            if not self._upload_left.is_set():
                await trio.lowlevel.checkpoint()  # it may have sent the last byte and not run since
                self._uploading.cancel()
                await self._upload_left.wait()
            await self._give_back(self.connection, reusable and self._is_sent)


@dataclass(frozen=True, slots=True)
class Source:
    """The socket side of a response body: `take` what is here, move `remaining` bytes off `stream`, say `moved`."""

    exchange: Exchange
    stream: trio.abc.Stream
    remaining: int

    def take(self) -> bytes:
        """The bytes of the body that came with the head, which go first."""
        chunks = self.exchange.parser.chunks
        taken = b"".join(chunks)
        chunks.clear()
        return taken

    async def moved(self, count: int) -> None:
        """Gives the connection back. Raises: FetchError where `count` isn't `remaining`: the origin cut it off."""
        await self.exchange.pumped(count, self.remaining)


class FetchedBody(Body):
    """A response body that comes from an origin."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange, length: int | None) -> None:
        super().__init__(exchange, length)
        self._exchange = exchange

    @property
    def source(self) -> Source | None:
        """For whoever can move bytes between sockets in C; None where the body has to be read (or was begun)."""
        return None if self.is_used else self._exchange.source()


class _SourceFailed(Exception):
    """The request body, not the connection, is at fault; the cause is its error."""


async def _parts(body: Body) -> AsyncGenerator[bytes, None]:
    """The body's chunks. Raises: _SourceFailed where it fails or isn't as long as it says."""
    sent = 0
    try:
        async with aclosing(cast("AsyncGenerator[bytes, None]", aiter(body))) as parts:
            async for part in parts:
                sent += len(part)
                if body.length is not None and sent > body.length:
                    raise ValueError(f"it is longer than its {body.length} bytes")
                yield part
        if body.length is not None and sent < body.length:
            raise ValueError(f"it ended after {sent} of {body.length} bytes")
    except Exception as error:  # it runs the user's code
        raise _SourceFailed from error


def reason(error: BaseException) -> str:
    """What the operating system or TLS said, in a few words."""
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror.lower()
    return str(cause or error).lower() or type(error).__name__
