"""Receives the containers' queries on port 53, over UDP and TCP, and sends the resolver's answers.

A datagram is answered from the address it was sent to. Any address is answered, because containers may use any server.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import trio

from pyinterceptor.dns.query import QUERY_MAX
from pyinterceptor.dns.resolver import Lookups, Resolver, Waiting

IP_PKTINFO = 8  # ip(7); the socket module of Python 3.11 doesn't have it
IDLE = 30.0  # seconds for a TCP client to send one query and receive its answer
BATCH = 256  # datagrams to read before other tasks run

Peer = tuple[str, int, int, int]


class Client(Protocol):
    """A running container: its lookups, and the nursery for tasks that wait for upstream."""

    @property
    def lookups(self) -> Lookups: ...
    @property
    def nursery(self) -> trio.Nursery: ...


async def serve_udp(sock: socket.socket, client_on: Callable[[int], Client | None], resolver: Resolver) -> None:
    """Answers queries until cancelled. Borrows the dual-stack socket, which must have IP_PKTINFO and IPV6_RECVPKTINFO.

    `client_on(interface)` returns the container behind an interface; None if it has no container.
    """
    while True:
        await trio.lowlevel.wait_readable(sock.fileno())
        for _ in range(BATCH):
            try:
                data, control, _, peer = sock.recvmsg(QUERY_MAX, 256)
            except BlockingIOError:
                break
            except OSError:
                continue  # the error of an earlier answer
            interface, source = _arrival(control)
            client = client_on(interface)
            if client is None or source is None:
                continue
            answer = resolver.answer_nowait(client.lookups, data, udp=True)
            if isinstance(answer, Waiting):
                client.nursery.start_soon(_answer_later, sock, resolver, answer, source, peer)
            elif answer is not None:
                _send(sock, answer, source, peer)


async def serve_tcp(stream: trio.abc.Stream, lookups: Lookups, resolver: Resolver) -> None:
    """Serves one connection, with one query at a time (RFC 7766). Borrows the stream.

    Returns when either side has ended the connection, even with a reset.
    """
    with suppress(trio.BrokenResourceError):
        await _serve_queries(stream, lookups, resolver)


async def _serve_queries(stream: trio.abc.Stream, lookups: Lookups, resolver: Resolver) -> None:
    buffer = bytearray()
    with lookups.stream() as has_place, trio.move_on_after(IDLE) as scope:
        while has_place:
            while len(buffer) < 2 or len(buffer) < 2 + int.from_bytes(buffer[:2], "big"):
                if int.from_bytes(buffer[:2], "big") > QUERY_MAX:
                    return
                data = await stream.receive_some(QUERY_MAX)
                if not data:
                    return
                buffer += data
            end = 2 + int.from_bytes(buffer[:2], "big")
            answer = await resolver.answer(lookups, bytes(buffer[2:end]), udp=False)
            del buffer[:end]
            if answer is None:
                return
            await stream.send_all(len(answer).to_bytes(2, "big") + answer)
            scope.deadline = trio.current_time() + IDLE


async def _answer_later(sock: socket.socket, resolver: Resolver, waiting: Waiting, source: bytes, peer: Peer) -> None:
    try:
        _send(sock, await resolver.passed(waiting), source, peer)
    except Exception as error:
        waiting.lookups.observer.failed(waiting.query, error)


def _send(sock: socket.socket, answer: bytes, source: bytes, peer: Peer) -> None:
    try:
        sock.sendmsg([answer], [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, source)], 0, peer)
    except OSError:
        return  # the container has ended, or its queue is full; a client repeats its query


def _arrival(control: list[tuple[int, int, bytes]]) -> tuple[int, bytes | None]:
    """Returns the interface on which a datagram arrived, and the in6_pktinfo for its answer: the same interface, with
    the datagram's destination as source. (0, None) if the kernel didn't report them."""
    for level, kind, data in control:
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            return struct.unpack_from("=i", data, 16)[0], data
        if level == socket.IPPROTO_IP and kind == IP_PKTINFO:
            return struct.unpack_from("=i", data)[0], bytes(10) + b"\xff\xff" + data[8:12] + data[:4]
    return 0, None
