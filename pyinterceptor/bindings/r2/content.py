"""The content of an upload, in large pieces: a switch to a thread costs too much for a small one."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from io import BytesIO

from pyinterceptor.bindings.r2.limits import check_upload_size
from pyinterceptor.web import Body

Content = str | bytes | bytearray | memoryview | AsyncIterable[bytes | str] | Body | None

PIECE = 1024 * 1024  # bytes, at least, of each piece but the last


def chunks(method: str, value: Content) -> Pieces:
    """Returns the content in pieces of at least PIECE bytes, except for the last. None means no content.

    Raises TypeError, or BadArgument if the length is known and too large.
    """
    try:
        body = value if isinstance(value, Body) else Body(value)
    except TypeError as error:
        raise TypeError(f"{method}: {error}") from error
    check_upload_size(method, body.length or 0)
    return Pieces(method, body)


class Pieces:
    """Takes the body. Raises BadArgument (413) once more bytes have come than R2 allows."""

    def __init__(self, method: str, body: Body) -> None:
        self._method = method
        self._body = body
        self._size = 0
        self._parts: AsyncIterator[bytes] | None = None

    def __aiter__(self) -> Pieces:
        return self

    async def __anext__(self) -> bytes:
        if self._parts is None:
            self._parts = aiter(self._body)
        piece = await anext(self._parts)
        if len(piece) < PIECE:
            some = BytesIO()  # not a list: each part of a few bytes would cost an object many times its size
            some.write(piece)
            while some.tell() < PIECE and (part := await anext(self._parts, None)) is not None:
                some.write(part)
            piece = some.getvalue()
        self._size += len(piece)
        check_upload_size(self._method, self._size)
        return piece

    async def aclose(self) -> None:
        await self._body.aclose()
