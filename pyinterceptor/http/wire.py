"""One HTTP/1.1 connection's bytes: heads framed by C, bodies read as they are asked for. RFC 9112.

Server and client read through it. What a head means is decided once, in cext/frame.c; here it is only cut at the places
that were checked there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import trio

from pyinterceptor._relay import ffi, lib
from pyinterceptor.errors import PeerError
from pyinterceptor.web import Headers

LINE_MAX = 1024  # bytes of a chunk's size line
HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade")
)  # RFC 9110 section 7.6.1


class Wire:
    """Borrows the stream. `buffer` holds what was read too early."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.buffer = bytearray()
        self._frame = ffi.new("struct frame *")

    async def more(self) -> bool:
        """Reads once into the buffer; False at the end."""
        data = await self.stream.receive_some()
        self.buffer += data
        return bool(data)

    def request_frame(self) -> Any:
        """The frame of the request head in the buffer (status lib.FRAME_MORE: not complete)."""
        with ffi.from_buffer(self.buffer) as held:
            lib.frame_request(held, min(len(held), lib.HEAD_MAX), self._frame)
        return self._frame

    def response_frame(self, to_head: bool) -> Any:
        with ffi.from_buffer(self.buffer) as held:
            lib.frame_response(held, min(len(held), lib.HEAD_MAX), to_head, self._frame)
        return self._frame

    def take_head(self, length: int) -> tuple[str, list[tuple[str, str]]]:
        """The first line and the fields of a head that was framed, off the buffer."""
        text = self.buffer[: length - 4].decode("latin-1")
        del self.buffer[:length]
        first, *lines = text.split("\r\n")
        fields = []
        for line in lines:
            name, _, value = line.partition(":")
            fields.append((name, value.strip(" \t")))
        return first, fields

    async def body(self, kind: int, length: int) -> AsyncIterator[bytes]:
        """The chunks of a body, as they come.

        Raises: PeerError where it breaks off or is malformed.
        """
        if kind == lib.BODY_LENGTH:
            parts = self._exactly(length)
        elif kind == lib.BODY_CHUNKED:
            parts = self._chunked()
        else:
            parts = self._until_close()
        async for part in parts:
            yield part

    async def _exactly(self, length: int) -> AsyncIterator[bytes]:
        while length:
            if not self.buffer and not await self.more():
                raise PeerError("the body broke off")
            part = bytes(self.buffer[:length])
            del self.buffer[: len(part)]
            length -= len(part)
            yield part

    async def _chunked(self) -> AsyncIterator[bytes]:
        while size := self._size(await self._line(LINE_MAX)):
            async for part in self._exactly(size):
                yield part
            if await self._line(2):
                raise PeerError("a chunk is longer than its size")
        trailers = 0
        while line := await self._line(lib.HEAD_MAX):
            trailers += len(line)
            if trailers > lib.HEAD_MAX or b":" not in line:
                raise PeerError("the trailers are malformed")

    async def _until_close(self) -> AsyncIterator[bytes]:
        while self.buffer or await self.more():
            part = bytes(self.buffer)
            self.buffer.clear()
            yield part

    async def _line(self, most: int) -> bytes:
        """One line without its CRLF."""
        while (end := self.buffer.find(b"\r\n")) < 0:
            if len(self.buffer) > most:
                raise PeerError("a line of the body is too long")
            if not await self.more():
                raise PeerError("the body broke off")
        line = bytes(self.buffer[:end])
        if end > most or b"\n" in line or b"\r" in line:
            raise PeerError("a line of the body is malformed")
        del self.buffer[: end + 2]
        return line

    @staticmethod
    def _size(line: bytes) -> int:
        digits = line.partition(b";")[0]
        if not 0 < len(digits) <= 15 or digits.strip(b"0123456789abcdefABCDEF"):
            raise PeerError("a chunk's size is malformed")
        return int(digits, 16)


def chunk(part: bytes) -> bytes:
    """A part of a body in the chunked coding."""
    return b"%x\r\n%b\r\n" % (len(part), part)


LAST_CHUNK = b"0\r\n\r\n"


def head(first: str, headers: Headers, added: list[tuple[str, str]]) -> bytes:
    """A head's bytes: the fields less the hop-by-hop ones and those in `added`, then those."""
    named = {option.strip().lower() for option in (headers.get("connection") or "").split(",")}
    dropped = HOP_BY_HOP | named | {name for name, _ in added}
    lines = [first]
    lines += [f"{name}: {value}" for name, value in headers.items() if name.lower() not in dropped]
    lines += [f"{name}: {value}" for name, value in added]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
