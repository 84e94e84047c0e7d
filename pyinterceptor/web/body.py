"""The bytes of a message: known at once, or coming. Read once. Pure."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

Content = bytes | bytearray | memoryview | str | AsyncIterable[bytes | str] | None


class Body:
    """`async for chunk in body` gives bytes; a second reading is a RuntimeError.

    `length` is the count of bytes, None where it isn't known before the end.
    `content` is all of it where it was given at once, None while it is to be streamed.
    """

    __slots__ = ("_chunks", "content", "is_used", "length")

    def __init__(self, content: Content = None, length: int | None = None) -> None:
        self.content: bytes | None = None
        self._chunks: AsyncIterable[bytes | str] | None = None
        self.is_used = False
        if content is None:
            self.content = b""
        elif isinstance(content, str):
            self.content = content.encode()
        elif isinstance(content, bytes | bytearray | memoryview):
            self.content = bytes(content)
        elif isinstance(content, AsyncIterable):
            self._chunks = content
        else:
            raise TypeError(f"a body is bytes, str or an async iterable of them, not {type(content).__name__}")
        self.length = length if self.content is None else len(self.content)

    async def _iterate(self) -> AsyncIterator[bytes]:
        if self.content is not None:
            if self.content:
                yield self.content
            return
        assert self._chunks is not None
        async for chunk in self._chunks:
            if chunk:
                yield chunk.encode() if isinstance(chunk, str) else chunk

    def __aiter__(self) -> AsyncIterator[bytes]:
        if self.is_used:
            raise RuntimeError("the body was read already")
        self.is_used = True
        return self._iterate()

    async def bytes(self) -> bytes:
        """All of it."""
        if self.content is not None and not self.is_used:
            self.is_used = True
            return self.content
        return b"".join([chunk async for chunk in self])

    async def text(self) -> str:
        """All of it, as UTF-8; what isn't is replaced, as the Fetch standard does."""
        return (await self.bytes()).decode("utf-8", "replace")

    async def json(self) -> Any:
        """All of it, as JSON. Raises: ValueError."""
        return json.loads(await self.bytes())

    async def aclose(self) -> None:
        """Ends whatever was to produce the rest."""
        close = getattr(self._chunks, "aclose", None)
        if close is not None:
            await close()
