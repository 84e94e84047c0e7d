"""The bytes that one HTTP/1.1 client sends: heads framed by C, the rest left where it is. RFC 9112.

What a head means is decided once, in cext/frame.c; here it is only cut at the places that were checked there.
"""

from __future__ import annotations

from typing import Any, Protocol

from pyinterceptor._relay import ffi, lib

READING_MORE = int(lib.READING_MORE)
EAGER = 16  # reads of one head, as soon as a byte comes: a head of 16 KiB is 12 segments of Ethernet
UNSEEN = ffi.new("struct head *")[0]  # the state of a head of which nothing was looked at
PAUSE, LONGEST_PAUSE = 0.02, 0.5  # seconds between further ones, each twice the last: bytes one by one cost few reads


class Receiver(Protocol):
    async def receive_some(self) -> bytes: ...
    async def receive_sparsely(self, seconds: float) -> bytes | None: ...


class Wire:
    """Borrows the stream. Its length is that of what was read and not yet used."""

    def __init__(self, stream: Receiver) -> None:
        self.stream = stream
        self.taken = 0  # bytes, ever
        self._bytes: bytes | bytearray = b""
        self._at = 0  # what stands before it is used: cutting it off at every step would be quadratic
        self._reads = 0  # of the next head
        self.frame: Any = ffi.new("struct frame *")
        self._head = ffi.new("struct head *")  # how far the next head was looked at

    def __len__(self) -> int:
        return len(self._bytes) - self._at

    async def more(self) -> bool:
        """Reads once; False at the end."""
        return self._keep(await self.stream.receive_some())

    async def more_of_head(self) -> bool:
        """Reads some of a head that is incomplete; False at the end."""
        self._reads += 1
        if self._reads <= EAGER:
            return await self.more()
        pause = min(LONGEST_PAUSE, PAUSE * 2 ** min(self._reads - EAGER - 1, 8))
        while (data := await self.stream.receive_sparsely(pause)) is None:
            pause = LONGEST_PAUSE
        return self._keep(data)

    def _keep(self, data: bytes) -> bool:
        if not self._bytes:
            self._bytes = data
        else:
            if not isinstance(self._bytes, bytearray):
                self._bytes = bytearray(self._bytes)
            del self._bytes[: self._at]
            self._bytes += data
            self._at = 0
        return bool(data)

    def read_head(self) -> int:
        """Looks at the request head that comes next: one of lib.READING_*. `frame` is what is known of it."""
        held, at = self._bytes, self._at
        if not at and isinstance(held, bytes):  # one whole read: the usual case, and a pointer costs 0.5 µs
            reading: int = lib.frame_request(self._head, held, len(held), self.frame)
        else:
            with ffi.from_buffer(held) as start:
                reading = lib.frame_request(self._head, start + at, len(held) - at, self.frame)
        if reading != READING_MORE:
            self._head[0] = UNSEEN
            self._reads = 0
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
            self.taken += most
            self._at = end
        else:
            self.taken += len(held) - start
            self._bytes, self._at = b"", 0
        return bytes(held[start:end])

    def take_head(self, length: int) -> tuple[str, str, str, str]:
        """Method, target and version of a request head that was framed, and the lines of its fields."""
        first, _, lines = self.take(length).decode("latin-1").partition("\r\n")
        method, target, version = first.split(" ")
        return method, target, version, lines
