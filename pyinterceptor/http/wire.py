"""The bytes that one HTTP/1.1 client sends: heads framed by C, the rest left where it is. RFC 9112.

What a head means is decided once, in cext/frame.c; here it is only cut at the places that were checked there.
"""

from __future__ import annotations

from typing import Any, Protocol

from pyinterceptor._relay import ffi, lib

HEAD_MAX = int(lib.HEAD_MAX)


class Receiver(Protocol):
    async def receive_some(self) -> bytes | bytearray: ...


class Wire:
    """Borrows the stream. `buffer` holds what was read and not yet used."""

    def __init__(self, stream: Receiver) -> None:
        self.stream = stream
        self.buffer = b""
        self._frame = ffi.new("struct frame *")

    async def more(self) -> bool:
        """Reads once into the buffer; False at the end."""
        data = await self.stream.receive_some()
        self.buffer = self.buffer + data if self.buffer else bytes(data)
        return bool(data)

    def frame(self) -> Any:
        """The frame of the request head in the buffer (status lib.FRAME_MORE: not complete)."""
        lib.frame_request(self.buffer, min(len(self.buffer), HEAD_MAX), self._frame)
        return self._frame

    def take(self, most: int) -> bytes:
        """What the buffer has, up to `most` bytes of it."""
        held = self.buffer
        self.buffer = held[most:]
        return held[:most]

    def take_head(self, length: int) -> tuple[str, str]:
        """The first line and the other lines of a head that was framed."""
        first, _, lines = self.take(length).decode("latin-1").partition("\r\n")
        return first, lines
