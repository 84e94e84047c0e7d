"""One request and its response on one connection.

The response is read while the request's body is sent, so that an early response is received. The response's body is
read only on demand, which puts backpressure on the origin.
"""

from __future__ import annotations

import select
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from pyinterceptor.boundary import parted
from pyinterceptor.errors import FetchError, PeerError
from pyinterceptor.http.fields import trailers_of
from pyinterceptor.http.pool import Origin
from pyinterceptor.http.reply import MAX_HEAD, ReplyHead, ReplyParser
from pyinterceptor.http.transfer import Pump, SourceFailed, send_body
from pyinterceptor.web import Body

RECEIVE = 64 * 1024  # bytes per read of the socket
SWITCHED = 101
AT_ONCE = 16 * 1024  # bytes; a body up to this size is sent with the head, as it fits into any socket buffer
STALL = 60.0  # seconds without a byte moving, after which the transfer of a request's body fails


class Unanswered(FetchError):
    """The connection ended before the first byte of the response. A reused connection had most likely been closed by
    the origin already."""


class Connection:
    """A connection to an origin. Takes the stream. `transport` is the stream below TLS, or the same stream without TLS.
    `ip` is the peer's address."""

    def __init__(self, origin: Origin, stream: trio.abc.Stream, transport: trio.abc.Stream, ip: str) -> None:
        self.origin = origin
        self.ip = ip
        self.stream = stream
        self.transport = transport
        self.name = f"{origin.host}:{origin.port}"

    @property
    def socket(self) -> Any:
        """The socket if bodies are on it unchanged; None with TLS or a stream in memory."""
        return getattr(self.transport, "socket", None) if self.stream is self.transport else None

    async def write(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def send_file(self, file: int, offset: int, count: int) -> int:
        send: SendFile = self.stream.send_file  # type: ignore[attr-defined]  # a stream that has a socket
        return await send(file, offset, count)

    def is_stale(self) -> bool:
        """Whether something has arrived while the connection was idle: its end, or unsolicited bytes."""
        below = getattr(self.transport, "socket", None)
        if below is None:
            return False
        poll = select.poll()
        poll.register(below.fileno(), select.POLLIN | select.POLLRDHUP)
        return bool(poll.poll(0))

    def reset(self) -> None:
        """Resets the connection, so that the origin can't take a partial request for a complete one."""
        reset = getattr(self.transport, "reset", None)
        if reset is not None:
            reset()

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self.stream)


SendFile = Callable[[int, int, int], Awaitable[int]]
GiveBack = Callable[[Connection, bool], Awaitable[None]]


class Exchange:
    """An exchange. Takes the connection, and passes it to `give_back`, together with whether it can be reused.

    Once `start` has returned, it is an async iterator of the response body's chunks. `aclose` ends it early.
    """

    def __init__(
        self,
        connection: Connection,
        method: str,
        give_back: GiveBack,
        pump: Pump | None,
        *,
        may_switch: bool = False,
        max_head: int = MAX_HEAD,
    ) -> None:
        self.connection = connection
        self.parser = ReplyParser(method, may_switch=may_switch, max_head=max_head)
        self._give_back = give_back
        self._pump = pump
        self._is_heard = False
        self._is_ended = False
        self._is_closed = False
        self._uploading = trio.CancelScope()
        self._upload_left = trio.Event()
        self._is_sent = False
        self._source_failure: BaseException | None = None

    async def start(self, head: bytes, body: Body, nursery: trio.Nursery) -> ReplyHead:
        """Sends the request, in a task of `nursery` if it may take long, and returns the response's head.

        Raises FetchError, or its subclass Unanswered; the connection has been given back then.
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

    @property
    def has_switched(self) -> bool:
        """Whether the connection has switched to another protocol. It is kept until the exchange is closed."""
        return self.parser.head is not None and self.parser.head.status == SWITCHED

    async def wait_sent(self) -> None:
        """Returns once the whole request is sent: bytes of another protocol may follow only then.

        Raises FetchError if it can't be sent.
        """
        try:
            await self._upload_left.wait()
            if not self._is_sent:
                raise FetchError(f"send to {self.connection.name}: the request ended before it was complete")
        except BaseException:
            await self._end(reusable=False)
            raise

    @property
    def trailers(self) -> list[tuple[str, str]]:
        """The trailer fields to forward, once the response's body has ended."""
        return trailers_of(self.parser.trailers)

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

    # The response's body as a web.body.Source.

    @property
    def source(self) -> Exchange | None:
        head = self.parser.head
        if head is None or head.length is None or self.parser.is_done or self.connection.socket is None:
            return None
        return self

    @property
    def socket(self) -> Any:
        return self.connection.socket

    @property
    def remaining(self) -> int:
        head = self.parser.head
        assert head is not None
        assert head.length is not None
        return head.length - self.parser.received

    async def take(self) -> bytes:
        return self.parser.take()

    async def moved(self, count: int) -> None:
        self.parser.pass_by(count)
        self._is_closed = True
        await self._end(reusable=self.parser.is_reusable)

    # Steps below the public methods.

    async def aclose(self) -> None:
        """Ends the exchange, and discards the unread part of the response."""
        if not self.parser.is_done:
            self._is_closed = True
            self.parser.chunks.clear()
        await self._end(reusable=False)

    async def _read(self) -> None:
        """Reads once. Ends the exchange if the response has ended."""
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
        if self.parser.is_done and not self.has_switched:
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
        """Sends the request, or as much of it as the origin reads. An origin may respond before it has read all."""
        try:
            with self._uploading:
                await trio.lowlevel.checkpoint_if_cancelled()
                await self.connection.write(head)
                if body is not None:
                    is_chunked = body.length is None
                    await send_body(body, self.connection, is_chunked=is_chunked, pump=self._pump, stall=STALL)
                self._is_sent = True
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        except BaseException as error:
            if parted(error)[0] is not None:
                raise
            self._source_failure = error.__cause__ if isinstance(error, SourceFailed) else error
            self.connection.reset()
            await self.connection.aclose()  # wakes the task that waits for the response
        finally:
            self._upload_left.set()

    async def _end(self, *, reusable: bool) -> None:
        """Stops the upload and gives the connection back, once."""
        if self._is_ended:
            return
        self._is_ended = True
        with trio.CancelScope(shield=True):
            if not self._upload_left.is_set():
                await trio.lowlevel.checkpoint()  # the upload may have sent its last byte, but not run since
                self._uploading.cancel()
                await self._upload_left.wait()
            if not (self.parser.is_done and self._is_sent):
                self.connection.reset()
            await self._give_back(self.connection, reusable and self._is_sent)


def reason(error: BaseException) -> str:
    """Returns the error message of the operating system or of TLS, in lower case."""
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror.lower()
    return str(cause or error).lower() or type(error).__name__
