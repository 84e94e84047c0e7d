"""Receives the containers' queries on port 53, over UDP and TCP, and sends the resolver's answers.

A datagram is answered from the address it was sent to. Any address is answered, because containers may use any server.
All datagrams that wait are read before one is answered, and then the containers have turns: one that floods us fills
its own queue, and no other's.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import trio

from pyinterceptor._relay import ffi, lib
from pyinterceptor.dns.query import QUERY_MAX
from pyinterceptor.dns.resolver import Lookups, Resolver, Waiting

IDLE = 30.0  # seconds for a TCP client to send one query and receive its answer
BATCH = int(lib.DATAGRAMS_MAX)  # datagrams to receive, or to answer, at once
READS = 64  # batches to receive before one is answered
BUSY = 4  # datagrams at once, from which on the next ones are awaited together: a wake costs as much as several answers
PACE = 0.001  # seconds, to await them

Datagram = tuple[bytes, bytes]  # its way, and its bytes


class Client(Protocol):
    """A running container, as DNS sees it."""

    @property
    def lookups(self) -> Lookups: ...


async def serve_udp(sock: socket.socket, client_on: Callable[[int], Client | None], resolver: Resolver) -> None:
    """Answers queries until cancelled. Borrows the dual-stack socket, which must have IP_PKTINFO and IPV6_RECVPKTINFO.

    `client_on(interface)` returns the container behind an interface; None if it has no container.
    """
    server = _Datagrams(sock, client_on, resolver)
    while True:
        count = server.receive()
        server.answer()
        if server.has_queries:
            await trio.lowlevel.checkpoint()
        elif count >= BUSY:
            await trio.sleep(PACE)
        else:
            await trio.lowlevel.wait_readable(sock.fileno())


class _Datagrams:
    """The queries that wait to be answered, by interface. `_turns` has the interfaces that have some."""

    def __init__(self, sock: socket.socket, client_on: Callable[[int], Client | None], resolver: Resolver) -> None:
        self._fd = sock.fileno()
        self._client_on = client_on
        self._resolver = resolver
        self._received = ffi.new("struct datagram[]", BATCH)
        self._answers = ffi.new("struct datagram[]", BATCH)
        self._late = ffi.new("struct datagram[]", 1)
        self._count = 0  # of `_answers`
        self._queues: dict[int, deque[Datagram]] = {}
        self._turns: deque[int] = deque()

    @property
    def has_queries(self) -> bool:
        return bool(self._turns)

    def receive(self) -> int:
        """Puts the datagrams that wait into the queues of their containers. Returns their number."""
        total = 0
        for _ in range(READS):
            count = lib.datagrams_receive(self._fd, self._received, BATCH)
            for at in range(count):
                datagram = self._received[at]
                way = ffi.buffer(ffi.addressof(datagram, "way"))[:]
                self._put(datagram.way.interface, way, ffi.buffer(datagram.bytes, datagram.length)[:])
            total += count
            if count < BATCH:
                break
        return total

    def _put(self, interface: int, way: bytes, wire: bytes) -> None:
        queue = self._queues.get(interface)
        if queue is None:
            queue = self._queues[interface] = deque()
            self._turns.append(interface)
        client = self._client_on(interface)
        if client is None:
            return
        if len(queue) < client.lookups.budget.query_queue:
            queue.append((way, wire))
        elif (answer := self._resolver.overflow(client.lookups, wire)) is not None:
            self._add(answer, way)

    def answer(self) -> None:
        """Answers a batch of queries, with one query of a container in each turn."""
        for _ in range(BATCH):
            if not self._turns:
                break
            interface = self._turns.popleft()
            queue = self._queues[interface]
            client = self._client_on(interface)
            if client is not None and queue:
                self._answer(interface, client, *queue.popleft())
            if client is not None and queue:
                self._turns.append(interface)
            else:
                del self._queues[interface]
        self._flush()

    def _answer(self, interface: int, client: Client, way: bytes, wire: bytes) -> None:
        def then(answer: bytes) -> None:
            if self._client_on(interface) is client:
                _fill(self._late[0], answer, way)
                lib.datagrams_send(self._fd, self._late, 1)

        answer = self._resolver.answer_nowait(client.lookups, wire, udp=True, then=then)
        if answer is not None and not isinstance(answer, Waiting):
            self._add(answer, way)

    def _add(self, answer: bytes, way: bytes) -> None:
        _fill(self._answers[self._count], answer, way)
        self._count += 1
        if self._count == BATCH:
            self._flush()

    def _flush(self) -> None:
        """Sends the answers. One that can't be sent is lost: the container has ended, or its queue is full."""
        if self._count:
            lib.datagrams_send(self._fd, self._answers, self._count)
            self._count = 0


def _fill(datagram: Any, answer: bytes, way: bytes) -> None:
    ffi.memmove(ffi.addressof(datagram, "way"), way, len(way))
    ffi.memmove(datagram.bytes, answer, len(answer))
    datagram.length = len(answer)


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
                lookups.counts.over_budget += 1
            async with lookups.streams:
                answer = await resolver.answer(lookups, bytes(buffer[2:end]))
                del buffer[:end]
                if answer is None:
                    return
                await stream.send_all(len(answer).to_bytes(2, "big") + answer)
            scope.deadline = trio.current_time() + IDLE
