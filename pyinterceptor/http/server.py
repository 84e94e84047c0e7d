"""Serves one connection of a container: requests in, responses out, one after the other. HTTP/1.1, RFC 9112.

A peer that breaks the protocol is answered once and closed; a handler that raises is answered for with 500 and the
connection lives; a client that leaves cancels its handler.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

import trio

from pyinterceptor._relay import ffi, lib
from pyinterceptor.errors import PeerError
from pyinterceptor.http.wire import LAST_CHUNK, Wire, chunk, head
from pyinterceptor.web import URL, Body, Headers, Request, Response

log = logging.getLogger("pyinterceptor")

Respond = Callable[[Request], Awaitable[Response]]
PHRASES = {status.value: status.phrase for status in HTTPStatus}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
BARE = (204, 304)  # responses without a body


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds and bytes."""

    idle: float = 75.0  # between two requests
    head: float = 10.0  # from a head's first byte to its last
    stall: float = 60.0  # of a body, either way
    drain: int = 65536  # of a body that the handler left unread, before the connection is closed instead


async def serve_connection(
    stream: trio.abc.Stream, respond: Respond, *, limits: Limits, scheme: str, destination: str
) -> None:
    """Serves until either side is done; borrows the stream. `destination` is the host where a request names none."""
    server = _Server(stream, respond, limits, scheme, destination)
    with trio.CancelScope() as scope:
        server.scope = scope
        try:
            while await server.serve_one():
                pass
        except (trio.BrokenResourceError, trio.TooSlowError):
            return


class _Server:
    def __init__(
        self, stream: trio.abc.Stream, respond: Respond, limits: Limits, scheme: str, destination: str
    ) -> None:
        self._wire = Wire(stream)
        self._stream = stream
        self._respond = respond
        self._limits = limits
        self._scheme = scheme
        self._destination = destination
        self._watch: Callable[[Any], None] | None = getattr(stream, "on_peer_gone", None)
        self.scope: trio.CancelScope

    async def serve_one(self) -> bool:
        """One request; True if another may follow."""
        frame = await self._next_head()
        if frame is None:
            return False
        if frame.status == lib.FRAME_BAD:
            return await self._refuse(frame.answer, ffi.string(frame.reason).decode())
        keep_alive, body_kind, body_length = frame.keep_alive, frame.body, frame.body_length
        to_head, expects = frame.is_head, bool(frame.expect_continue)
        host = ffi.string(frame.host).decode("ascii", "replace") or self._destination
        first, fields = self._wire.take_head(frame.head_length)
        method, target, version = first.split(" ")
        is_old = version == "HTTP/1.0"
        if method in ("CONNECT", "TRACE"):
            return await self._refuse(405, f"{method} is not for handlers")
        try:
            url = URL(target if "://" in target[:8] else f"{self._scheme}://{host}{'/' if target == '*' else target}")
        except ValueError as error:
            return await self._refuse(400, str(error))
        incoming = _Incoming(self._wire, body_kind, body_length, expects, self._limits)
        request = Request(url, method, Headers.parsed(fields), incoming.as_body())
        request.is_incoming = True
        response = await self._answer(request, incoming)
        try:
            return await self._send(response, incoming, bool(to_head), bool(keep_alive), is_old)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await response.aclose()

    async def _next_head(self) -> Any:
        """The next head's frame; None where the client is done."""
        wire = self._wire
        with trio.move_on_after(self._limits.idle):
            while not wire.buffer:
                if not await wire.more():
                    return None
        if not wire.buffer:
            return None
        with trio.move_on_after(self._limits.head):
            while (frame := wire.request_frame()).status == lib.FRAME_MORE:
                if not await wire.more():
                    return None
            return frame
        await self._refuse(408, "the head came too slowly")
        return None

    async def _answer(self, request: Request, incoming: _Incoming) -> Response:
        """The response of whoever decides; 500 with a logged traceback if that raises."""
        if self._watch is not None and not self._wire.buffer:
            self._watch(self.scope.cancel)
        try:
            return await self._respond(request)
        except PeerError as error:
            incoming.is_broken = True
            return Response(f"pyinterceptor: {error}\n", error.status)
        except Exception:
            log.exception("%s %s: the handler failed", request.method, request.url)
            return Response("pyinterceptor: the handler failed\n", 500)
        finally:
            if self._watch is not None:
                self._watch(None)

    async def _send(
        self, response: Response, incoming: _Incoming, to_head: bool, keep_alive: bool, is_old: bool
    ) -> bool:
        """Writes the response, then deals with what is left of the request; True if the connection persists."""
        body, length = response.body, response.body.length
        has_body = not to_head and response.status not in BARE
        chunked = length is None and not is_old and response.status not in BARE
        persists = keep_alive and (length is not None or chunked or not has_body) and not incoming.must_close
        added = [("date", _date())] if "date" not in response.headers else []
        if response.status not in BARE:
            if chunked:
                added.append(("transfer-encoding", "chunked"))
            elif length is not None and not (to_head and "content-length" in response.headers):
                added.append(("content-length", str(length)))
        if not persists:
            added.append(("connection", "close"))
        elif is_old:
            added.append(("connection", "keep-alive"))
        first = f"HTTP/1.1 {response.status} {PHRASES.get(response.status, '')}"
        start = head(first, response.headers, added)
        if body.content is not None:
            await self._write(start + body.content if has_body else start)
        else:
            await self._write(start)
            if has_body:
                await self._stream_body(body, length, chunked)
        return persists and await incoming.drain()

    async def _stream_body(self, body: Body, length: int | None, chunked: bool) -> None:
        """Sends a body as it comes. One that breaks off ends the connection with a reset, not as if it were whole."""
        sent = 0
        try:
            async for part in body:
                sent += len(part)
                if length is not None and sent > length:
                    raise ValueError(f"the response's body is longer than its length of {length}")
                await self._write(chunk(part) if chunked else part)
            if length is not None and sent < length:
                raise ValueError(f"the response's body ended after {sent} of {length} bytes")
        except (trio.BrokenResourceError, trio.TooSlowError):
            raise
        except Exception as error:
            log.exception("a response's body failed")
            raise trio.BrokenResourceError("a response's body failed") from error
        if chunked:
            await self._write(LAST_CHUNK)

    async def _refuse(self, status: int, why: str) -> bool:
        """Answers what can't be taken; the connection ends."""
        text = f"pyinterceptor: {why}\n".encode()
        added = [("date", _date()), ("content-length", str(len(text))), ("connection", "close")]
        first = f"HTTP/1.1 {status} {PHRASES[status]}"
        await self._write(head(first, Headers({"content-type": "text/plain; charset=utf-8"}), added) + text)
        return False

    async def _write(self, data: bytes) -> None:
        with trio.fail_after(self._limits.stall):
            await self._stream.send_all(data)


class _Incoming:
    """The body of the request that is being served."""

    def __init__(self, wire: Wire, kind: int, length: int, expects: bool, limits: Limits) -> None:
        self._wire = wire
        self._kind = kind
        self._length = length
        self._expects = expects  # 100 Continue is sent when the body is first asked for
        self._limits = limits
        self.is_broken = False
        self._is_done = kind == lib.BODY_NONE
        self._parts: AsyncIterator[bytes] | None = None

    def as_body(self) -> Body:
        if self._kind == lib.BODY_NONE:
            return Body()
        return Body(self._read(), self._length if self._kind == lib.BODY_LENGTH else None)

    async def _read(self) -> AsyncIterator[bytes]:
        if self._expects:
            self._expects = False
            await self._wire.stream.send_all(CONTINUE)
        async for part in self._rest():
            yield part

    async def _rest(self) -> AsyncIterator[bytes]:
        if self._parts is None:
            self._parts = self._wire.body(self._kind, self._length)
        while not self._is_done:
            part = await self._next(self._parts)
            if part is None:
                self._is_done = True
            else:
                yield part

    async def _next(self, parts: AsyncIterator[bytes]) -> bytes | None:
        """The next part, None at the end."""
        try:
            with trio.fail_after(self._limits.stall):
                return await anext(parts, None)
        except trio.TooSlowError as error:
            self.is_broken = True
            raise PeerError("the body came too slowly", 408) from error
        except PeerError:
            self.is_broken = True
            raise

    @property
    def must_close(self) -> bool:
        """What follows on the connection can't be told from the body."""
        return bool(self.is_broken or (self._expects and not self._is_done))

    async def drain(self) -> bool:
        """Reads what the handler left, up to a limit; True if the next request can be found."""
        left = self._limits.drain
        if self._is_done:
            return True
        try:
            async for part in self._rest():
                left -= len(part)
                if left < 0:
                    return False
        except PeerError:
            return False
        return True


_stamp: tuple[int, str] = (0, "")


def _date() -> str:
    """The Date field, made once a second (RFC 9110 section 6.6.1)."""
    global _stamp
    now = int(time.time())
    if now != _stamp[0]:
        _stamp = (now, formatdate(now, usegmt=True))
    return _stamp[1]
