"""Receives the containers' queries on port 53, UDP and TCP, and sends what `answer` gives.

A datagram is answered from the address it was sent to, whatever that was: containers may ask anybody.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Awaitable, Callable

import trio

Answer = Callable[[int, bytes, bool], Awaitable[bytes | None]]

IP_PKTINFO = 8  # ip(7); the socket module of Python 3.11 doesn't have it
IDLE = 30.0  # seconds, of a TCP connection between two queries
DATAGRAM = 4096  # bytes


async def serve_udp(sock: socket.socket, answer: Answer) -> None:
    """For ever; borrows the dual-stack socket, which has IP_PKTINFO and IPV6_RECVPKTINFO set."""
    async with trio.open_nursery() as nursery:
        while True:
            await trio.lowlevel.wait_readable(sock.fileno())
            try:
                data, control, _, peer = sock.recvmsg(DATAGRAM, 256)
            except OSError:
                continue
            container, source = _arrival(control)
            if container and source is not None:
                nursery.start_soon(_answer_one, sock, answer, container, data, source, peer)


async def serve_tcp(stream: trio.abc.Stream, container: int, answer: Answer) -> None:
    """One connection, queries one after the other (RFC 7766); borrows the stream."""
    buffer = bytearray()
    with trio.move_on_after(IDLE) as scope:
        while True:
            while len(buffer) < 2 or len(buffer) < 2 + int.from_bytes(buffer[:2], "big"):
                data = await stream.receive_some()
                if not data:
                    return
                buffer += data
            length = int.from_bytes(buffer[:2], "big")
            reply = await answer(container, bytes(buffer[2 : 2 + length]), False)
            del buffer[: 2 + length]
            if reply is None:
                return
            await stream.send_all(len(reply).to_bytes(2, "big") + reply)
            scope.deadline = trio.current_time() + IDLE


async def _answer_one(
    sock: socket.socket, answer: Answer, container: int, data: bytes, source: bytes, peer: tuple[str, int, int, int]
) -> None:
    reply = await answer(container, data, True)
    if reply is None:
        return
    info = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, source + struct.pack("=I", container))]
    try:
        sock.sendmsg([reply], info, 0, peer)
    except OSError:
        return  # the container is gone, or its queue is full: it asks again


def _arrival(control: list[tuple[int, int, bytes]]) -> tuple[int, bytes | None]:
    """The interface a datagram came in on and the address it was sent to, as 16 bytes."""
    container, source = 0, None
    for level, kind, data in control:
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            source, container = data[:16], struct.unpack_from("=i", data, 16)[0]
        elif level == socket.IPPROTO_IP and kind == IP_PKTINFO:
            container = struct.unpack_from("=i", data)[0]
            source = bytes(10) + b"\xff\xff" + data[8:12]
    return container, source
