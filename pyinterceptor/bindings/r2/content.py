"""What a handler puts, as bytes in large pieces: few are worth a thread's turn each."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from io import BytesIO

from pyinterceptor.bindings.r2.limits import check_upload_size
from pyinterceptor.web import Body

Content = str | bytes | bytearray | memoryview | AsyncIterable[bytes | str] | Body | None

PIECE = 1024 * 1024  # bytes, about


def chunks(method: str, value: Content) -> Pieces:
    """Pieces of at least PIECE bytes, but the last; None is empty. Raises: TypeError, BadArgument."""
    try:
        body = value if isinstance(value, Body) else Body(value)
    except TypeError as error:
        raise TypeError(f"{method}: {error}") from error
    check_upload_size(method, body.length or 0)
    return Pieces(method, body)


class Pieces:
    """Takes the body. Raises: BadArgument (413) where more comes than is allowed."""

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
            some = BytesIO()  # not a list: of tiny parts, each object would be many times its bytes
            some.write(piece)
            while some.tell() < PIECE and (part := await anext(self._parts, None)) is not None:
                some.write(part)
            piece = some.getvalue()
        self._size += len(piece)
        check_upload_size(self._method, self._size)
        return piece

    async def aclose(self) -> None:
        await self._body.aclose()
