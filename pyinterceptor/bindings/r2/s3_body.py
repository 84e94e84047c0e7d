"""Bodies of requests to, and answers from, an S3-compatible store, a part at a time."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial
from typing import Any, NamedTuple

from pyinterceptor.bindings.r2.s3_store import Store

PART = 8 * 1024 * 1024  # bytes of a request's body, at most
READ = 1024 * 1024  # bytes per call on a thread


class Part(NamedTuple):
    data: bytes
    is_last: bool


async def parts_of(content: AsyncIterator[bytes]) -> AsyncGenerator[Part, None]:
    """Yields the content in parts of PART bytes. Only the last is shorter; it is empty if there is no content."""
    buffer = bytearray()
    async for piece in content:
        buffer += piece
        while len(buffer) > PART:
            with memoryview(buffer) as view:
                part = bytes(view[:PART])
            del buffer[:PART]
            yield Part(part, False)
    yield Part(bytes(buffer), True)


def content_md5(digest: bytes) -> str:
    """Returns the Content-MD5 field, by which the store verifies a body. RFC 1864."""
    return base64.b64encode(digest).decode()


def md5_of(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


class StoreChunks:
    """The body of an answer, in chunks. Takes the connection, and closes it if the body isn't read to its end."""

    def __init__(self, store: Store, stream: Any) -> None:
        self._store = store
        self._stream = stream

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        data = await self._store.run("get", partial(self._stream.read, READ)) if self._stream is not None else b""
        if not data:
            self.close()
            raise StopAsyncIteration
        return bytes(data)

    async def aclose(self) -> None:
        self.close()

    def close(self) -> None:
        if self._stream is not None:
            stream, self._stream = self._stream, None
            stream.close()

    __del__ = close
