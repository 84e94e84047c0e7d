"""Sends a body as it comes: read and written here, or moved by C or the kernel where it is on a socket or in a file.

What was sent can be told from a whole body: one of known length is as long as it says, or the sending fails.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from typing import Any, Never, Protocol

import trio

from pyinterceptor.boundary import parted
from pyinterceptor.errors import PeerError
from pyinterceptor.web import Body
from pyinterceptor.web.body import FileSource, Source

PUMPED = 256 * 1024  # bytes of a body from which on it is worth lending the sockets
AT_ONCE = 4 * 1024 * 1024  # bytes of a file in one call: more than a socket takes
BAD_GATEWAY = 502
CLOSING = 1.0  # seconds that the end of a body's own code may take
LAST_CHUNK = b"0\r\n\r\n"
TCP_CLOSE = 7  # tcpi_state of a socket after a reset or time-out (include/net/tcp_states.h)


class Sink(Protocol):
    """Where a body goes; `socket` is None where its bytes can't be put on a socket as they are."""

    @property
    def socket(self) -> Any: ...

    async def write(self, data: bytes) -> None: ...

    async def send_file(self, file: int, offset: int, count: int) -> int:
        """Up to `count` bytes of a file from `offset` on; how many. Raises: OSError where the file can't be read."""


class Pumping(Protocol):
    """Two sockets that are lent to C."""

    @property
    def moved(self) -> int:
        """Bytes that have reached the sink."""

    async def wait(self) -> None:
        """Returns when all has moved or the source has ended. Raises: OSError where a side failed."""


Pump = Callable[[socket.socket, socket.socket, int], AbstractContextManager[Pumping]]  # Relay.pump


class SourceFailed(Exception):
    """The body, not where it goes, is at fault; the cause is its error."""


async def send_body(body: Body, sink: Sink, *, is_chunked: bool, pump: Pump | None, stall: float) -> None:
    """Sends all of it; closes the body, whatever happens.

    Raises: SourceFailed; what `sink.write` raises; where the bytes aren't read here, trio.BrokenResourceError for a
    sink that failed and trio.TooSlowError where none has moved for `stall` seconds.
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
            body.is_used = True
            await _lend(source, sink, pump, stall)
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSING):
            await _close(body)


async def _read(body: Body, sink: Sink, is_chunked: bool) -> None:
    sent, length = 0, body.length
    try:
        parts = aiter(body)
    except BaseException as error:  # somebody else reads it already
        _blame(error)
    while (part := await _next(parts)) is not None:
        sent += len(part)
        if length is not None and sent > length:
            raise SourceFailed from ValueError(f"the body is longer than its {length} bytes")
        await sink.write(b"%x\r\n%b\r\n" % (len(part), part) if is_chunked else part)
    if length is not None and sent < length:
        raise SourceFailed from ValueError(f"the body ended after {sent} of {length} bytes")
    if is_chunked:
        await sink.write(LAST_CHUNK)


async def _close(body: Body) -> None:
    try:
        await body.aclose()
    except BaseException as error:
        _blame(error)


async def _next(parts: AsyncIterator[bytes]) -> bytes | None:
    try:
        return await anext(parts, None)
    except BaseException as error:  # it may be the user's code, which may call sys.exit()
        _blame(error)


def _blame(error: BaseException) -> Never:
    """Raises SourceFailed by this error, or the error itself if it is one that passes every boundary."""
    if parted(error)[0] is not None:
        raise error
    raise SourceFailed from error


async def _lend(source: Source, sink: Sink, pump: Pump, stall: float) -> None:
    moved = 0
    try:
        first = await _take(source)
        remaining = source.remaining
        if first:
            await sink.write(first)
        with pump(source.socket, sink.socket, remaining) as pumping:
            await _until_moved(pumping, stall)
        moved = pumping.moved
    except OSError as error:
        if _is_dead(sink.socket):
            raise trio.BrokenResourceError(f"write: {error.strerror}") from error
        raise SourceFailed from PeerError(f"the body broke off: {error.strerror}", BAD_GATEWAY)
    finally:
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
