"""Receives the containers' queries on port 53, UDP and TCP, and sends the resolver's answers.

A datagram is answered from the address it was sent to, whatever that was: containers may ask anybody.
"""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Callable

import trio

from pyinterceptor.dns.query import QUERY_MAX
from pyinterceptor.dns.resolver import Resolver, Waiting

log = logging.getLogger("pyinterceptor")

IP_PKTINFO = 8  # ip(7); the socket module of Python 3.11 doesn't have it
IDLE = 30.0  # seconds that a TCP client may take to ask one question and take its answer
BATCH = 256  # datagrams between two turns of everybody else

Peer = tuple[str, int, int, int]


async def serve_udp(sock: socket.socket, container_on: Callable[[int], int | None], resolver: Resolver) -> None:
    """For ever; borrows the dual-stack socket, which has IP_PKTINFO and IPV6_RECVPKTINFO set.

    `container_on(interface)` gives the number of the container that asks, None for nobody's interface.
    """
    async with trio.open_nursery() as nursery:
        while True:
            await trio.lowlevel.wait_readable(sock.fileno())
            for _ in range(BATCH):
                try:
                    data, control, _, peer = sock.recvmsg(QUERY_MAX, 256)
                except BlockingIOError:
                    break
                except OSError:
                    continue  # what became of an earlier answer
                interface, source = _arrival(control)
                container = container_on(interface)
                if container is None or source is None:
                    continue
                answer = resolver.answer_nowait(container, data, udp=True)
                if isinstance(answer, Waiting):
                    nursery.start_soon(_answer_later, sock, resolver, answer, source, peer)
                elif answer is not None:
                    _send(sock, answer, source, peer)


async def serve_tcp(stream: trio.abc.Stream, container: int, resolver: Resolver) -> None:
    """One connection, queries one after the other (RFC 7766); borrows the stream."""
    buffer = bytearray()
    with resolver.stream(container) as has_place, trio.move_on_after(IDLE) as scope:
        while has_place:
            while len(buffer) < 2 or len(buffer) < 2 + int.from_bytes(buffer[:2], "big"):
                if int.from_bytes(buffer[:2], "big") > QUERY_MAX:
                    return
                data = await stream.receive_some(QUERY_MAX)
                if not data:
                    return
                buffer += data
            end = 2 + int.from_bytes(buffer[:2], "big")
            answer = await resolver.answer(container, bytes(buffer[2:end]), udp=False)
            del buffer[:end]
            if answer is None:
                return
            await stream.send_all(len(answer).to_bytes(2, "big") + answer)
            scope.deadline = trio.current_time() + IDLE


async def _answer_later(sock: socket.socket, resolver: Resolver, waiting: Waiting, source: bytes, peer: Peer) -> None:
    try:
        _send(sock, await resolver.passed(waiting), source, peer)
    except Exception:
        log.exception("DNS query of container %d for %s: failed", waiting.asker.container, waiting.query.labels)


def _send(sock: socket.socket, answer: bytes, source: bytes, peer: Peer) -> None:
    try:
        sock.sendmsg([answer], [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, source)], 0, peer)
    except OSError:
        return  # the container is gone, or its queue is full: it asks again


def _arrival(control: list[tuple[int, int, bytes]]) -> tuple[int, bytes | None]:
    """The interface a datagram came in on, and the in6_pktinfo to answer with: out there, from where it was sent."""
    for level, kind, data in control:
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            return struct.unpack_from("=i", data, 16)[0], data
        if level == socket.IPPROTO_IP and kind == IP_PKTINFO:
            return struct.unpack_from("=i", data)[0], bytes(10) + b"\xff\xff" + data[8:12] + data[:4]
    return 0, None
