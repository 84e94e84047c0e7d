"""Streams a body to a connection. Python reads and writes it, or C or the kernel moves it from a socket or a file.

A truncated body is never taken for a whole one: sending fails if a body of known length ends early or is too long.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from typing import Any, Never, Protocol

import trio

from pyinterceptor.boundary import parted
from pyinterceptor.errors import PeerError
from pyinterceptor.web import Body
from pyinterceptor.web.body import FileSource, Source

PUMPED = 256 * 1024  # bytes; a shorter body isn't worth lending the sockets to C
AT_ONCE = 4 * 1024 * 1024  # bytes of a file per call; more than a socket's buffer takes
BAD_GATEWAY = 502
CLOSING = 1.0  # seconds for a body's own code to close it
TCP_CLOSE = 7  # tcpi_state of a socket after a reset or timeout (include/net/tcp_states.h)


class Sink(Protocol):
    """The destination of a body. `socket` is None if the body's bytes can't be written to a socket unchanged."""

    @property
    def socket(self) -> Any: ...

    async def write(self, data: bytes) -> None: ...

    async def send_file(self, file: int, offset: int, count: int) -> int:
        """Sends up to `count` bytes of a file from `offset` on. Returns their number. Raises OSError if the file can't
        be read."""


class Pumping(Protocol):
    """A transfer by C between two borrowed sockets."""

    @property
    def moved(self) -> int:
        """The number of bytes that have been written to the sink."""

    async def wait(self) -> None:
        """Returns once all bytes have moved or the source has ended. Raises OSError if a side failed."""


Pump = Callable[[socket.socket, socket.socket, int], AbstractContextManager[Pumping]]  # Relay.pump


class SourceFailed(Exception):
    """The body failed, not the sink. The exception's cause is the body's error."""


async def send_body(body: Body, sink: Sink, *, is_chunked: bool, pump: Pump | None, stall: float) -> None:
    """Sends the whole body. Always closes the body.

    Raises SourceFailed, or an exception of `sink.write`. If C or the kernel moves the bytes, raises
    trio.BrokenResourceError if the sink failed, and trio.TooSlowError if no byte moved for `stall` seconds.
    """
    source = None if sink.socket is None or is_chunked else body.source
    try:
        if source is None or source.remaining < PUMPED:
            await _read(body, sink, is_chunked)
        elif isinstance(source, FileSource):
            body.is_used = True
            await _send_file(source, sink, stall)
        elif pump is None:
            await _read(body, sink, is_chunked)
        else:
            await _lend(body, source, sink, pump, stall)
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSING):
            await _close(body)


async def _read(body: Body, sink: Sink, is_chunked: bool, sent: int = 0) -> None:
    length = body.length
    try:
        parts = aiter(body)
    except BaseException as error:  # the body is already being read
        _blame(error)
    while (part := await _next(parts)) is not None:
        sent += len(part)
        if length is not None and sent > length:
            raise SourceFailed from ValueError(f"the body is longer than its {length} bytes")
        await sink.write(b"%x\r\n%b\r\n" % (len(part), part) if is_chunked else part)
    if length is not None and sent < length:
        raise SourceFailed from ValueError(f"the body ended after {sent} of {length} bytes")
    if is_chunked:
        await sink.write(last_chunk(body))


def last_chunk(body: Body) -> bytes:
    """Returns the last chunk, with the body's trailers (RFC 9112 section 7.1.2)."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in body.trailers)
    return f"0\r\n{lines}\r\n".encode("latin-1")


async def _close(body: Body) -> None:
    try:
        await body.aclose()
    except BaseException as error:
        _blame(error)


async def _next(parts: AsyncIterator[bytes]) -> bytes | None:
    try:
        return await anext(parts, None)
    except BaseException as error:  # the user's code may raise anything, even SystemExit
        _blame(error)


def _blame(error: BaseException) -> Never:
    """Raises SourceFailed with this error as its cause, or the error itself if every boundary must pass it on."""
    if parted(error)[0] is not None:
        raise error
    raise SourceFailed from error


async def _lend(body: Body, source: Source, sink: Sink, pump: Pump, stall: float) -> None:
    """Sends the body with a pump; or without one, if the container's budget is used up."""
    moved = 0
    is_pumped = True
    try:
        first = await _take(source)
        remaining = source.remaining
        if first:
            await sink.write(first)
        with pump(source.socket, sink.socket, remaining) as pumping:
            body.is_used = True
            await _until_moved(pumping, stall)
        moved = pumping.moved
    except OSError as error:
        if error.errno == errno.EDQUOT:
            is_pumped = False
            await _read(body, sink, is_chunked=False, sent=len(first))
            return
        if _is_dead(sink.socket):
            raise trio.BrokenResourceError(f"write: {error.strerror}") from error
        raise SourceFailed from PeerError(f"the body was cut off: {error.strerror}", BAD_GATEWAY)
    finally:
        if is_pumped:
            with trio.CancelScope(shield=True):
                await source.moved(moved)
    if moved < remaining:
        raise SourceFailed from PeerError(f"the body ended {remaining - moved} bytes before its end", BAD_GATEWAY)


async def _send_file(source: FileSource, sink: Sink, stall: float) -> None:
    offset, end = source.offset, source.offset + source.remaining
    while offset < end:
        try:
            with trio.fail_after(stall):
                sent = await sink.send_file(source.file, offset, min(AT_ONCE, end - offset))
        except OSError as error:
            raise SourceFailed from error
        if not sent:
            raise SourceFailed from EOFError(f"the body's file ended {end - offset} bytes before its end")
        offset += sent


async def _take(source: Source) -> bytes:
    try:
        return await source.take()
    except BaseException as error:
        _blame(error)


async def _until_moved(pumping: Pumping, stall: float) -> None:
    moved = -1
    while pumping.moved > moved:
        moved = pumping.moved
        with trio.move_on_after(stall):
            await pumping.wait()
            return
    raise trio.TooSlowError


def _is_dead(connection: socket.socket) -> bool:
    return connection.fileno() < 0 or connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TCP_CLOSE
