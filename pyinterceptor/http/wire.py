"""The bytes that one HTTP/1.1 client sends: heads framed by C, the rest left where it is. RFC 9112.

What a head means is decided once, in cext/frame.c; here it is only cut at the places that were checked there.
"""

from __future__ import annotations

from typing import Any, Protocol

from pyinterceptor._relay import ffi, lib

READING_MORE = int(lib.READING_MORE)


class Receiver(Protocol):
    async def receive_some(self) -> bytes: ...


class Wire:
    """Borrows the stream. Its length is that of what was read and not yet used."""

    def __init__(self, stream: Receiver) -> None:
        self.stream = stream
        self._bytes = b""
        self._at = 0  # what stands before it is used: cutting it off at every step would be quadratic
        self.frame: Any = ffi.new("struct frame *")
        self._head = ffi.new("struct head *")  # how far the next head was looked at

    def __len__(self) -> int:
        return len(self._bytes) - self._at

    async def more(self) -> bool:
        """Reads once; False at the end."""
        data = await self.stream.receive_some()
        if self._bytes:
            self._bytes, self._at = self._bytes[self._at :] + data, 0
        else:
            self._bytes = data
        return bool(data)

    def read_head(self) -> int:
        """Looks at the request head that comes next: one of lib.READING_*. `frame` is what is known of it."""
        start = ffi.from_buffer(self._bytes) + self._at if self._at else self._bytes
        reading = int(lib.frame_request(self._head, start, len(self._bytes) - self._at, self.frame))
        if reading != READING_MORE:
            self._head = ffi.new("struct head *")
        return reading

    def find_line(self) -> int:
        """How many bytes stand before the next CRLF, -1 where there is none yet."""
        found = self._bytes.find(b"\r\n", self._at)
        return found if found < 0 else found - self._at

    def take(self, most: int) -> bytes:
        """What is here, up to `most` bytes of it."""
        held, start = self._bytes, self._at
        end = start + most
        if end < len(held):
            self._at = end
        else:
            self._bytes, self._at = b"", 0
        return held[start:end]

    def take_head(self, length: int) -> tuple[str, str, str, str]:
        """Method, target and version of a request head that was framed, and the lines of its fields."""
        first, _, lines = self.take(length).decode("latin-1").partition("\r\n")
        method, target, version = first.split(" ")
        return method, target, version, lines
