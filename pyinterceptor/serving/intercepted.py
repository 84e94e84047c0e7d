"""A container's TCP connection, as a worker's `connect` gets it."""

from __future__ import annotations

import trio.abc

from pyinterceptor.relay.stream import HubStream
from pyinterceptor.serving.records import Endpoint


class InterceptedStream(trio.abc.HalfCloseableStream):
    """A Trio stream to the container. `destination` is the address and port that it dialled, `host` its name or ""."""

    def __init__(self, stream: HubStream, destination: Endpoint, host: str) -> None:
        self.destination = destination
        self.host = host
        self._stream = stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self._stream.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()
