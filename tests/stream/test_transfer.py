"""Bodies that are sent on a connection."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from pyinterceptor.http.transfer import SourceFailed, send_body
from pyinterceptor.web import Body
from tests.stream.dialogue import in_trio


class Written:
    """A sink that keeps the bytes it is given."""

    socket = None

    def __init__(self) -> None:
        self.data = b""

    async def write(self, data: bytes) -> None:
        self.data += data


async def parts() -> AsyncIterator[bytes]:
    yield b"once"


@in_trio
async def test_a_body_with_another_reader_is_a_failed_source() -> None:
    """Two fetches send one body. The second one's upload runs in a task that other uploads share."""
    body, first, second = Body(parts()), Written(), Written()
    await send_body(body, first, is_chunked=True, pump=None, stall=1.0)
    with pytest.raises(SourceFailed) as caught:
        await send_body(body, second, is_chunked=True, pump=None, stall=1.0)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert (first.data, second.data) == (b"4\r\nonce\r\n0\r\n\r\n", b"")
