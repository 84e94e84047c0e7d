"""What a handler puts, as bytes in large pieces: few are worth a thread's turn each."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator

from pyinterceptor.web import Body

Content = str | bytes | bytearray | memoryview | AsyncIterable[bytes | str] | Body | None

PIECE = 1024 * 1024  # bytes, about


def chunks(method: str, value: Content) -> Pieces:
    """Pieces of at least PIECE bytes, but the last; None is empty. Raises: TypeError."""
    try:
        return Pieces(value if isinstance(value, Body) else Body(value))
    except TypeError as error:
        raise TypeError(f"{method}: {error}") from error


class Pieces:
    """Takes the body."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._parts: AsyncIterator[bytes] | None = None

    def __aiter__(self) -> Pieces:
        return self

    async def __anext__(self) -> bytes:
        if self._parts is None:
            self._parts = aiter(self._body)
        some: list[bytes] = []
        size = 0
        while size < PIECE and (part := await anext(self._parts, None)) is not None:
            some.append(part)
            size += len(part)
        if not some:
            raise StopAsyncIteration
        return some[0] if len(some) == 1 else b"".join(some)

    async def aclose(self) -> None:
        await self._body.aclose()
