"""Serves the containers' queries over TCP on port 53. C serves those over UDP (cext/resolver.h)."""

from __future__ import annotations

from contextlib import suppress

import trio

from pyinterceptor.dns.query import QUERY_MAX
from pyinterceptor.dns.resolver import Lookups, Resolver

IDLE = 30.0  # seconds for a TCP client to send one query and receive its answer


async def serve_tcp(stream: trio.abc.Stream, lookups: Lookups, resolver: Resolver) -> None:
    """Serves one connection, with one query at a time (RFC 7766). Borrows the stream.

    A query above the container's budget waits for its turn. Returns when either side has ended the connection, even
    with a reset.
    """
    with suppress(trio.BrokenResourceError):
        await _serve_queries(stream, lookups, resolver)


async def _serve_queries(stream: trio.abc.Stream, lookups: Lookups, resolver: Resolver) -> None:
    buffer = bytearray()
    with trio.move_on_after(IDLE) as scope:
        while True:
            while len(buffer) < 2 or len(buffer) < 2 + int.from_bytes(buffer[:2], "big"):
                if int.from_bytes(buffer[:2], "big") > QUERY_MAX:
                    return
                data = await stream.receive_some(QUERY_MAX)
                if not data:
                    return
                buffer += data
            end = 2 + int.from_bytes(buffer[:2], "big")
            if not lookups.streams.value:
                lookups.streams_waited += 1
            async with lookups.streams:
                answer = await resolver.answer(lookups, bytes(buffer[2:end]))
                del buffer[:end]
                if answer is None:
                    return
                await stream.send_all(len(answer).to_bytes(2, "big") + answer)
            scope.deadline = trio.current_time() + IDLE
