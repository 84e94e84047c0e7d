"""The body of a message, whole or streamed. It can be read once. Pure."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from typing import Any, Protocol, runtime_checkable

Content = bytes | bytearray | memoryview | str | AsyncIterable[bytes | str] | None


class Source(Protocol):
    """The socket that a body's bytes arrive at, so that they can be moved on without being read."""

    @property
    def socket(self) -> Any: ...

    @property
    def remaining(self) -> int:
        """Count of bytes that were not taken off the socket yet."""

    async def take(self) -> bytes:
        """Returns the bytes that were already read off the socket. They precede the remaining ones."""

    async def moved(self, count: int) -> None:
        """Reports that `count` remaining bytes were taken off the socket. If fewer than all, no more can be read."""


@runtime_checkable
class FileSource(Protocol):
    """The file that a body's bytes are in, so that they can be sent without being read."""

    @property
    def file(self) -> int:
        """The file's descriptor, which stays open until the body is closed."""

    @property
    def offset(self) -> int:
        """Offset in the file of the first byte that was not read yet."""

    @property
    def remaining(self) -> int:
        """Count of the body's bytes from `offset` on."""


class Body:
    """`async for chunk in body` yields bytes. A second reading raises RuntimeError.

    `length` is the count of bytes; None if it is unknown until the end.
    `content` holds all bytes; None if they are streamed.
    """

    __slots__ = ("_chunks", "content", "is_used", "length")

    content: bytes | None
    length: int | None

    def __init__(self, content: Content = None, length: int | None = None) -> None:
        self._chunks: AsyncIterable[bytes | str] | None = None
        self.is_used = False
        if content is None:
            self.content, self.length = b"", 0
        elif isinstance(content, str | bytes | bytearray | memoryview):
            self.content = content.encode() if isinstance(content, str) else bytes(content)
            self.length = len(self.content)
        elif isinstance(content, AsyncIterable):
            self.content, self.length, self._chunks = None, length, content
        else:
            raise TypeError(f"a body is bytes, str or an async iterable of them, not {type(content).__name__}")

    @property
    def source(self) -> Source | FileSource | None:
        """The socket or file that holds the bytes; None if there is none, or if reading has begun."""
        return None if self.is_used else getattr(self._chunks, "source", None)

    @property
    def trailers(self) -> Sequence[tuple[str, str]]:
        """The trailer fields of a fetched body, once it has ended; else none."""
        return getattr(self._chunks, "trailers", ())

    def taken(self) -> Body:
        """Moves the bytes into a new body, and returns it. Raises RuntimeError if this body was read already."""
        self._use()
        body = Body.__new__(Body)
        body._chunks, body.content, body.length, body.is_used = self._chunks, self.content, self.length, False
        return body

    def _use(self) -> None:
        if self.is_used:
            raise RuntimeError("the body was read already")
        self.is_used = True

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._use()
        if self._chunks is None:
            return _Whole(self.content)
        self._chunks = aiter(self._chunks)
        return _Coming(self._chunks)

    async def bytes(self) -> bytes:
        """Returns the whole body. Raises RuntimeError if it was read already."""
        if self.content is not None and not self.is_used:
            self.is_used = True
            return self.content
        return b"".join([chunk async for chunk in self])

    async def text(self) -> str:
        """Returns the whole body as UTF-8; invalid bytes are replaced, as in the Fetch standard."""
        return (await self.bytes()).decode("utf-8", "replace")

    async def json(self) -> Any:
        """Returns the whole body, parsed as JSON. Raises ValueError if it is not JSON."""
        return json.loads(await self.bytes())

    async def aclose(self) -> None:
        """Closes the source of the bytes, read or not."""
        close = getattr(self._chunks, "aclose", None)
        if close is not None:
            await close()


# Classes instead of generators: a loop over a body can be left early without closing a generator.


class _Whole:
    """Iterates over one chunk; over none if it is empty."""

    __slots__ = ("_content",)

    def __init__(self, content: bytes | None) -> None:
        self._content = content

    def __aiter__(self) -> _Whole:
        return self

    async def __anext__(self) -> bytes:
        content, self._content = self._content, None
        if not content:
            raise StopAsyncIteration
        return content


class _Coming:
    """Iterates over the chunks of an iterable as bytes, without the empty ones."""

    __slots__ = ("_chunks",)

    def __init__(self, chunks: AsyncIterator[bytes | str]) -> None:
        self._chunks = chunks

    def __aiter__(self) -> _Coming:
        return self

    async def __anext__(self) -> bytes:
        while True:
            chunk = await anext(self._chunks)
            if not isinstance(chunk, str | bytes | bytearray | memoryview):
                raise TypeError(f"a body's chunks are bytes or str, not {type(chunk).__name__}")
            if chunk:
                return chunk.encode() if isinstance(chunk, str) else bytes(chunk)
