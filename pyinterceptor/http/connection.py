"""One connection of a container: requests in, responses out, one after the other. HTTP/1.1, RFC 9112.

A peer that breaks the protocol is answered once and closed; a handler that raises is answered for with 500 and the
connection lives; a client that leaves cancels its handler.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any, Protocol, cast

import trio

from pyinterceptor._relay import ffi, lib
from pyinterceptor.boundary import parted
from pyinterceptor.errors import FetchError, PeerError, ungrouped
from pyinterceptor.http.answering import Framing, asks_to_close, framing, response_head
from pyinterceptor.http.deadlines import NEVER, Deadline, Deadlines
from pyinterceptor.http.faults import LOGGED, Faults
from pyinterceptor.http.incoming import Incoming
from pyinterceptor.http.transfer import Pump, Pumping, SourceFailed, send_body
from pyinterceptor.http.tunnel import Switched, copy_both_ways
from pyinterceptor.http.wire import Wire
from pyinterceptor.web import URL, Body, Request, Response
from pyinterceptor.web.request import Place
from pyinterceptor.web.url import split_host

Respond = Callable[[Request], Awaitable[Response]]
Ended = Callable[[Request, int, int, int], None]  # with the status, 0 for none, and bytes that were read and written
Refused = Callable[[int], None]  # with the status

READING_MORE, READING_BAD = int(lib.READING_MORE), int(lib.READING_BAD)
BODY_NONE = int(lib.BODY_NONE)
SWITCHED = 101
WRITTEN = 65536  # bytes that have one deadline
NOT_FOR_HANDLERS = frozenset({"CONNECT", "TRACE"})
ALLOW = {"allow": "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"}


class ClientStream(Protocol):
    """What is asked of a container's connection; `HubStream` is one."""

    has_left: bool
    on_leave: Callable[[bool], None] | None

    @property
    def socket(self) -> Any: ...
    def has_unread(self) -> bool: ...
    def reset(self) -> None: ...
    async def receive_some(self) -> bytes: ...
    async def receive_sparsely(self, seconds: float) -> bytes | None: ...
    async def send_all(self, data: bytes | bytearray | memoryview) -> None: ...
    async def send_file(self, file: int, offset: int, count: int) -> int: ...
    async def send_eof(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds and bytes."""

    idle: float = 75.0  # between two requests
    head: float = 10.0  # from a head's first byte to its last
    stall: float = 60.0  # of a body, either way
    farewell: float = 2.0  # for a handler whose client has closed its side: maybe only half of the connection
    linger: float = 2.0  # for the client to read the last response, before what it still sends resets the connection
    tunnel: float = 3600.0  # of a connection that has switched protocols, both ways
    drain: int = 65536  # of a body that the handler left unread, before the connection is closed instead


class Connection:
    """Borrows the stream."""

    def __init__(
        self,
        stream: ClientStream,
        respond: Respond,
        limits: Limits,
        deadlines: Deadlines,
        deadline: Deadline,
        *,
        scheme: str,
        destination: tuple[str, int],
        pump: Pump | None,
        ended: Ended | None = None,
        refused: Refused | None = None,
        faults: Faults = LOGGED,
    ) -> None:
        self.is_answering = False  # a response was begun and isn't whole
        self._stream = stream
        self._wire = Wire(stream)
        self._respond = respond
        self._limits = limits
        self._deadlines = deadlines
        self._deadline = deadline
        self._is_waiting = False  # for what isn't the client's to give
        self._scheme = scheme
        self._host, self._port = destination
        self._pump = pump
        self._ended = ended
        self._refused = refused
        self._faults = faults
        self._written = 0  # bytes, of all responses
        self._counted = (0, 0)  # bytes read and written before this request

    @property
    def socket(self) -> Any:
        return self._stream.socket

    async def serve(self) -> None:
        """All requests, until either side is done."""
        while (reading := await self._next_head()) != READING_MORE:
            if not await self._serve_one(reading, self._wire.frame):
                await self._linger()
                return

    def client_leaves(self, is_reset: bool) -> None:
        """The client has closed or reset its side."""
        if is_reset:
            self._deadline.scope.cancel()
        elif self._is_waiting and not self._stream.has_unread():
            self._deadline.expires = self._deadlines.now + self._limits.farewell

    async def _next_head(self) -> int:
        """Reads the next head into the wire's frame; READING_MORE if the client is done."""
        wire = self._wire
        self._is_waiting = False
        self._deadline.expires = self._deadlines.now + self._limits.idle
        if not wire and not await wire.more():
            return READING_MORE
        self._deadline.expires = NEVER
        if (reading := wire.read_head()) != READING_MORE:
            return reading
        with trio.move_on_after(self._limits.head):
            while await wire.more_of_head():
                if (reading := wire.read_head()) != READING_MORE:
                    return reading
            return READING_MORE
        await self._refuse(408, "the head came too slowly")
        return READING_MORE

    async def _serve_one(self, reading: int, frame: Any) -> bool:
        """One request; True if another may follow."""
        if reading == READING_BAD:
            return await self._refuse(frame.answer, ffi.string(frame.reason).decode())
        method, target, version, lines = self._wire.take_head(frame.head_length)
        if not frame.is_plain and method.upper() in NOT_FOR_HANDLERS:
            return await self._refuse(405, f"{method} is not for handlers", ALLOW)
        try:
            place = self._place(ffi.string(frame.host).decode(), target)
        except ValueError as error:
            return await self._refuse(400, str(error))
        incoming = None if frame.body == BODY_NONE else self._incoming(frame)
        body = None if incoming is None else Body(incoming, incoming.length)
        request = Request.incoming(method, target, place, lines, body)
        response: Response | None = None
        try:
            response = await self._answer(request)
            if response.status == SWITCHED:
                return await self._switch(cast("Switched", response), incoming)
            return await self._send(response, incoming, frame, is_old=version == "HTTP/1.0")
        finally:
            if self._ended is not None:
                self._tell(self._ended, request, 0 if response is None else response.status)
            if incoming is not None:
                await incoming.end()
            if response is not None and response.body.content is None:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                    await response.aclose()

    def _tell(self, ended: Ended, request: Request, status: int) -> None:
        """Reports the end of a request, answered or not."""
        read, written = self._counted
        self._counted = self._wire.taken, self._written
        ended(request, status, self._wire.taken - read, self._written - written)

    def _place(self, host: str, target: str) -> Place:
        """What the request's URL is made of.

        Raises: ValueError for what could be read in two ways.
        """
        if "#" in target:
            raise ValueError("the target has a fragment")
        if target[0] == "/" or target == "*":
            name = split_host(host)[0] if ":" in host else host.lower() or self._host
            return self._scheme, name, self._port, target
        url = URL(target)
        if url.scheme != self._scheme:
            raise ValueError(f"a target of the scheme {url.scheme} on a connection of {self._scheme}")
        return url.scheme, url.host, url.port, url.target

    def _incoming(self, frame: Any) -> Incoming:
        expects, stall = bool(frame.expect_continue), self._limits.stall
        return Incoming(self._wire, self._stream, frame.body, frame.body_length, expects=expects, stall=stall)

    async def _answer(self, request: Request) -> Response:
        """Returns the response of `respond`; 500 with a logged traceback if it raises, a peer's fault excepted."""
        self._wait()
        try:
            response = await self._respond(request)
            body = response.body
            if body.content is None and body.is_used:
                raise RuntimeError("the response's body was read already")
            return response
        except BaseException as error:  # a handler that calls sys.exit() ends its request, not the interceptor
            if parted(error)[0] is not None:
                raise
            alone = ungrouped(error)  # a handler may read the body in a nursery
            if isinstance(alone, PeerError):
                return Response(f"pyinterceptor: {alone}\n", alone.status)
            self._faults.error("the handler failed", error, request)
            return Response("pyinterceptor: the handler failed\n", 500)

    async def _switch(self, response: Switched, incoming: Incoming | None) -> bool:
        """Passes the bytes of whatever the client and the origin speak from now on."""
        if incoming is not None and not await incoming.drain(self._limits.drain):
            return await self._refuse(502, "the origin switched protocols before the request's body had ended")
        origin = response.exchange.connection.stream
        self.is_answering = True
        with response.held():
            await self._write(response.head() + response.exchange.parser.surplus)
            self._renew()
            if early := self._wire.take(len(self._wire)):
                await origin.send_all(early)
            await copy_both_ways(self._stream, origin, self._renew)
        self.is_answering = False
        return False

    def _renew(self) -> None:
        self._deadline.expires = self._deadlines.now + self._limits.tunnel

    async def _send(self, response: Response, incoming: Incoming | None, frame: Any, *, is_old: bool) -> bool:
        """Writes the response, then deals with what is left of the request; True if the connection persists."""
        body = response.body
        content = body.content
        framed = framing(response, to_head=frame.is_head, is_old=is_old)
        persists = bool(frame.keep_alive) and framed != "until close" and not asks_to_close(response)
        if incoming is not None:
            is_streamed = content is None and framed != "bare"
            persists = await incoming.precede(self._limits.drain, is_streamed=is_streamed) and persists
        connection = "close" if not persists else "keep-alive" if is_old else None
        head = response_head(response, framed, _date(), connection=connection)
        self.is_answering = True
        if framed == "bare":
            await self._write(head)
        elif content is not None and len(content) <= WRITTEN:
            await self._write(head + content)
        elif content is not None:  # not copied: it may be as large as a handler's values are
            await self._write(head)
            await self._write(content)
        else:
            await self.write(head)
            await self._send_body(body, framed)
        self.is_answering = False
        if incoming is None or not persists:
            return persists
        self._deadline.expires = NEVER
        with trio.move_on_after(self._limits.head):
            return await incoming.drain(self._limits.drain)
        return False

    async def _send_body(self, body: Body, framed: Framing) -> None:
        """Sends a body as it comes. One that breaks off ends the connection with a reset, not as if it were whole."""
        pump = None if self._pump is None else self._lend
        try:
            await send_body(body, self, is_chunked=framed == "chunked", pump=pump, stall=self._limits.stall)
        except SourceFailed as failure:
            cause = None if failure.__cause__ is None else ungrouped(failure.__cause__)
            if isinstance(cause, PeerError | FetchError):
                self._faults.info("a response's body broke off", cause)
            else:
                self._faults.error("a response's body failed", cause or failure)
            raise trio.BrokenResourceError("a response's body failed") from cause

    @contextmanager
    def _lend(self, source: Any, sink: Any, limit: int) -> Iterator[Pumping]:
        """The pump has a deadline of its own."""
        assert self._pump is not None
        self._is_waiting = False
        with self._pump(source, sink, limit) as pumping:
            yield pumping
        self._written += pumping.moved
        self._wait()

    async def write(self, data: bytes) -> None:
        """Some of a response that goes on."""
        await self._write(data)
        self._wait()

    async def send_file(self, file: int, offset: int, count: int) -> int:
        """Some of a response that is in a file. The sender has a deadline of its own."""
        self._is_waiting = False
        sent = await self._stream.send_file(file, offset, count)
        self._written += sent
        self._wait()
        return sent

    async def _write(self, data: bytes) -> None:
        self._is_waiting = False
        self._deadline.expires = self._deadlines.now + self._limits.stall
        self._written += len(data)
        if len(data) <= WRITTEN:
            await self._stream.send_all(data)
        else:
            for start in range(0, len(data), WRITTEN):
                await self._stream.send_all(memoryview(data)[start : start + WRITTEN])
                self._deadline.expires = self._deadlines.now + self._limits.stall

    def _wait(self) -> None:
        """Nothing is due from the client: it may take as long as it takes, while the client is there."""
        self._deadline.expires = NEVER
        self._is_waiting = True
        if self._stream.has_left and self._stream.on_leave is not None:
            self._stream.on_leave(False)

    async def _refuse(self, status: int, why: str, headers: dict[str, str] | None = None) -> bool:
        """Answers a request that no handler can be given, and ends the connection."""
        if self._refused is not None:
            self._refused(status)
        response = Response(f"pyinterceptor: {why}\n", status, headers)
        head = response_head(response, "length", _date(), connection="close")
        self.is_answering = True
        await self._write(head + (response.body.content or b""))
        self.is_answering = False
        return False

    async def _linger(self) -> None:
        """Waits for the client to close: unread bytes would turn our close into a reset, and undo the response."""
        self._deadline.expires = NEVER
        with trio.move_on_after(self._limits.linger), suppress(trio.BusyResourceError):  # a handler's task still reads
            await self._stream.send_eof()
            while await self._stream.receive_some():
                pass


_stamp: tuple[int, str] = (0, "")


def _date() -> str:
    """The Date field, made once a second (RFC 9110 section 6.6.1)."""
    global _stamp
    now = int(time.time())
    if now != _stamp[0]:
        _stamp = (now, formatdate(now, usegmt=True))
    return _stamp[1]
