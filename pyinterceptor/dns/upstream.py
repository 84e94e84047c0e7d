"""Asks the host's resolvers, through the resolver in C (cext/resolver.h), and asks over TCP where an answer was cut.

C keeps the answers, and answers most of the containers' queries by itself, on a thread of its own. Its events are
taken here: answers to our own questions, and those that the `Asked` of all containers must see to.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from typing import Any, NamedTuple, Protocol

import trio
from dns.rdatatype import AAAA, A

from pyinterceptor._relay import ffi, lib
from pyinterceptor.dns.query import question_of
from pyinterceptor.dns.servers import Server, Servers
from pyinterceptor.errors import CaptureError
from pyinterceptor.policy.addresses import packed, unpacked

CACHE_SIZE = 16 << 20  # bytes
TRY = float(lib.NAMESERVER_TRY)  # seconds for one query over TCP
STREAMS = 256  # queries over TCP at once, each with a descriptor; further ones wait
SECOND_FAMILY = float(lib.SECOND_FAMILY)  # seconds to wait for the other family, once one family has addresses
BATCH = 64  # events in a row
FOLLOW = 1.0  # seconds between two looks at resolv.conf(5)
TRANSIENT = (OSError, trio.TooSlowError, trio.BrokenResourceError)


class NoAnswer(Exception):
    """No upstream server answered."""


class Answer(NamedTuple):
    """Upstream's answer to one question.

    `packed` holds its addresses, 16 bytes each, v4 as v4-mapped: at most ANSWER_ADDRESSES_MAX. `ttl` is the number of
    seconds for which it may be kept, 0 if it may not; `lowest` the lowest TTL among its records. `came` is the time at
    which it came. `is_cut`: TC is set.
    """

    wire: bytes
    came: float
    code: int
    ttl: int
    lowest: int
    packed: bytes
    is_cut: bool


@dataclass(slots=True)
class Addresses:
    """The addresses of a name, as text. `ttl` is in seconds."""

    v4: list[str] = field(default_factory=list)
    v6: list[str] = field(default_factory=list)
    ttl: int = int(lib.ANSWER_TTL_MAX)

    def both(self) -> list[str]:
        """Returns all addresses, with the families alternating, IPv6 first."""
        turns = chain.from_iterable(zip_longest(self.v6, self.v4))
        return [text for text in turns if text is not None]


class Ways(NamedTuple):
    """The functions that C calls to publish a name and to decide it: `struct resolver_options`."""

    relay: Any = ffi.NULL
    publish: Any = ffi.NULL
    decide: Any = ffi.NULL


ALONE = Ways()  # no container is served


class Asked(Protocol):
    """Sees to the events that concern a container."""

    def take(self, event: Any) -> None:
        """Takes a `struct resolver_event`, which is borrowed."""

    def taken(self) -> None:
        """Reports that a batch of events was taken."""


class Upstream:
    """Made by `open_upstream`. `handle` is the resolver in C, and `clock` returns its time in seconds."""

    def __init__(self, handle: Any, clock: Callable[[], float], servers: Servers, nursery: trio.Nursery) -> None:
        self.handle = handle
        self.clock = clock
        self.asked: Asked | None = None
        self._servers = servers
        self._known: list[Server] | None = None
        self._nursery = nursery  # of the tasks that ask over TCP
        self._streams = trio.Semaphore(STREAMS)
        self._tokens = itertools.count(1)
        self._awaited: dict[int, Callable[[Any], None]] = {}
        self.set_servers()

    def set_servers(self) -> None:
        """Reads the servers anew."""
        now = list(self._servers.now())
        if now != self._known:
            self._known = now
            array = ffi.new("struct nameserver[]", [_nameserver(server) for server in now])
            if lib.resolver_set_servers(self.handle, array, len(now)) < 0:
                raise MemoryError

    def listen(self, sock: socket.socket) -> None:
        """Serves queries over UDP. Borrows the dual-stack socket, which must have IP_PKTINFO and IPV6_RECVPKTINFO."""
        result = lib.resolver_listen(self.handle, sock.fileno())
        if result < 0:
            raise CaptureError(f"listen for DNS queries: {os.strerror(-result)}")

    def token(self, then: Callable[[Any], None]) -> int:
        """Returns a token for C, with which `then` is called once, with the event."""
        token = next(self._tokens)
        self._awaited[token] = then
        return token

    def forget(self, token: int) -> None:
        """Ends a token."""
        self._awaited.pop(token, None)

    async def query(self, question: bytes) -> Answer:
        """Returns the answer to a question, whose name is in lower case. Raises NoAnswer."""
        answers: list[Answer] = []
        has_come = trio.Event()

        def come(event: Any) -> None:
            if event.length:
                answers.append(_answer(event))
            has_come.set()

        self.set_servers()
        token = self.token(come)
        lib.resolver_question(self.handle, token, question, len(question), self.clock())
        try:
            await has_come.wait()
        finally:
            self.forget(token)
        if not answers:
            raise NoAnswer("no upstream server answers")
        return answers[0]

    async def resolve(self, name: str) -> Addresses:
        """Returns the addresses of a name; none if it can't be resolved.

        Both families are queried at once. Once one has addresses, the other is awaited for only SECOND_FAMILY more. An
        address resolves to itself, and localhost to the loopback addresses (RFC 6761).
        """
        literal = _literal(name)
        if literal is not None:
            return literal
        found = Addresses()
        asked = _wire(name)
        if asked is None:
            return found
        async with trio.open_nursery() as nursery:

            async def ask(kind: int, texts: list[str]) -> None:
                with contextlib.suppress(NoAnswer):
                    answer = await self.query(question_of(asked, kind))
                    texts[:] = map(str, addresses(answer))
                    if texts:
                        age = int(self.clock() - answer.came)
                        found.ttl = min(found.ttl, max(answer.lowest - age, 0))
                        nursery.cancel_scope.deadline = trio.current_time() + SECOND_FAMILY

            nursery.start_soon(ask, A, found.v4)
            nursery.start_soon(ask, AAAA, found.v6)
        return found

    async def follow(self) -> None:
        """Follows changes of the servers, until cancelled."""
        while True:
            await trio.sleep(FOLLOW)
            self.set_servers()

    # ---- events ----

    async def run(self) -> None:
        """Takes the events, until cancelled."""
        ready = lib.resolver_event_fd(self.handle)
        while True:
            await trio.lowlevel.wait_readable(ready)
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(ready)
            while self._take():
                await trio.lowlevel.checkpoint()

    def _take(self) -> bool:
        """Takes a batch of events. Returns whether some may be left."""
        for _ in range(BATCH):
            event = lib.resolver_take(self.handle)
            if event == ffi.NULL:
                break
            try:
                self._dispatch(event)
            finally:
                lib.resolver_event_free(event)
        lib.resolver_flush(self.handle)
        if self.asked is not None:
            self.asked.taken()
        return bool(event != ffi.NULL)

    def _dispatch(self, event: Any) -> None:
        if event.token:
            if (then := self._awaited.pop(event.token, None)) is not None:
                then(event)
        elif event.kind == lib.RESOLVER_TCP:
            server = str(unpacked(bytes(event.server.address))), event.server.port, event.server.scope
            query = ffi.buffer(event.bytes, event.length)[:]
            self._nursery.start_soon(self._over_tcp, event.flight, server, query)
        elif self.asked is not None:
            self.asked.take(event)

    async def _over_tcp(self, flight: Any, server: tuple[str, int, int], query: bytes) -> None:
        """Asks for an answer that was cut once more, over TCP. If that fails, C asks the next server."""
        wire = None
        with contextlib.suppress(*TRANSIENT):
            async with self._streams:
                with trio.fail_after(TRY):
                    wire = await _exchange(query, server)
        message = ffi.NULL if wire is None else wire
        lib.resolver_told(self.handle, flight, message, len(wire or b""), self.clock())


@asynccontextmanager
async def open_upstream(
    servers: Servers, *, ways: Ways = ALONE, cache_size: int = CACHE_SIZE
) -> AsyncIterator[Upstream]:
    """Opens the way to the upstream servers while the block lasts. `cache_size`: bytes for answers that are kept.

    C's thread asks from the network namespace of the calling thread.
    """
    async with open_handle(servers, time.monotonic, ways, cache_size) as upstream:
        result = lib.resolver_start(upstream.handle)
        if result < 0:
            raise CaptureError(f"start the resolver's thread: {os.strerror(-result)}")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(upstream.follow)
            yield upstream
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_handle(
    servers: Servers, clock: Callable[[], float], ways: Ways, cache_size: int = CACHE_SIZE, port_queries: int = 0
) -> AsyncIterator[Upstream]:
    """Opens the resolver in C without its thread: the caller steps it, with the time of `clock`."""
    options = ffi.new("struct resolver_options *")
    options.cache_size, options.port_queries = cache_size, port_queries
    options.relay, options.publish, options.decide = ways
    handle = lib.resolver_open(options)
    if handle == ffi.NULL:
        raise CaptureError(f"open the resolver: {os.strerror(ffi.errno)}")
    try:
        async with trio.open_nursery() as nursery:
            upstream = Upstream(handle, clock, servers, nursery)
            nursery.start_soon(upstream.run)
            yield upstream
            nursery.cancel_scope.cancel()
    finally:
        lib.resolver_close(handle)


def addresses(answer: Answer) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Returns the answer's addresses."""
    packed = answer.packed
    return [unpacked(packed[at : at + 16]) for at in range(0, len(packed), 16)]


def _answer(event: Any) -> Answer:
    facts = event.facts
    addresses = ffi.buffer(facts.addresses)[: 16 * facts.count]
    wire = ffi.buffer(event.bytes, event.length)[:]
    return Answer(wire, event.came, facts.code, facts.ttl, facts.lowest, addresses, bool(facts.is_cut))


def _nameserver(server: Server) -> tuple[bytes, int, int, int]:
    host, port = server
    address = ipaddress.ip_address(host)
    scope = getattr(address, "scope_id", None)
    number = 0
    if scope is not None:
        with contextlib.suppress(OSError):
            number = int(scope) if scope.isdecimal() else socket.if_nametoindex(scope)
    return packed(address), number, port, 0


async def _exchange(query: bytes, server: tuple[str, int, int]) -> bytes:
    """Returns a server's answer over TCP (RFC 7766). Raises OSError, or BrokenResourceError if the server ends."""
    host, port, scope = server
    is_v6 = ":" in host
    with trio.socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET, socket.SOCK_STREAM) as sock:
        await sock.connect((host, port, 0, scope) if is_v6 else (host, port))
        stream = trio.SocketStream(sock)
        await stream.send_all(len(query).to_bytes(2, "big") + query)
        buffer = bytearray()
        while len(buffer) < 2 or len(buffer) < 2 + int.from_bytes(buffer[:2], "big"):
            data = await stream.receive_some()
            if not data:
                raise trio.BrokenResourceError
            buffer += data
        return bytes(buffer[2 : 2 + int.from_bytes(buffer[:2], "big")])


def _wire(name: str) -> bytes | None:
    """Returns a name in wire format and in lower case; None if no name has this form."""
    try:
        labels = name.lower().encode("ascii").removesuffix(b".").split(b".")
    except UnicodeEncodeError:
        return None
    if not all(0 < len(label) <= 63 for label in labels):
        return None
    wire = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    return wire if len(wire) <= 255 else None


def _literal(name: str) -> Addresses | None:
    if name == "localhost" or name.endswith(".localhost"):
        return Addresses(["127.0.0.1"], ["::1"])
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return None
    return Addresses([name], []) if address.version == 4 else Addresses([], [name])
