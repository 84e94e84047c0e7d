"""Asks the host's resolvers for names that no rule serves, and keeps their answers.

Many askers of one question share one query. No task runs for a query: one task waits for all sockets, and calls back.
The queries to a server are spread over random ports, of which each is used for a limited number of queries, with random
ids: an answer can't be forged without guessing both (RFC 5452).
"""

from __future__ import annotations

import contextlib
import heapq
import ipaddress
import itertools
import os
import select
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import chain, zip_longest

import trio
from dns.rcode import FORMERR, NOERROR, NOTIMP, NXDOMAIN
from dns.rdatatype import AAAA, A

from pyinterceptor._relay import lib
from pyinterceptor.dns.answers import UDP_MAX, Answer, read_answer
from pyinterceptor.dns.cache import CACHE_SIZE, Cache
from pyinterceptor.dns.query import question_of
from pyinterceptor.dns.servers import Server, Servers
from pyinterceptor.policy.addresses import unpacked

TRY = 2.0  # seconds for one query to one server
ROUNDS = 2  # over all servers
SECOND_FAMILY = 1.0  # seconds to wait for the other family, once one family has addresses
LACKING = 5.0  # seconds for which the other family isn't asked for again, after an answer that can't be kept
LACKING_MAX = 4096  # questions
PLAIN = 3600.0  # seconds for which a server that has refused EDNS is asked without it
PORTS = 32  # sockets for each server
QUERIES = 256  # with one socket, which is then replaced
BATCH = 64  # answers that are read before other tasks run
BUSY = 4  # answers at once, from which on the next ones are awaited together: a wake costs as much as several answers
PACE = 0.001  # seconds, to await them

RECURSIVE = b"\1\0\0\1\0\0\0\0"  # flags (RD), one question
OPT = b"\0\0\x29" + UDP_MAX.to_bytes(2, "big") + bytes(6)
TRANSIENT = (OSError, trio.TooSlowError, trio.BrokenResourceError)

Then = Callable[[Answer | None], None]  # called with the answer; None if no server has answered


class NoAnswer(Exception):
    """No upstream server answered."""


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


class _Flight:
    """A question that is being asked. `attempt` counts the queries, so that a late event of an earlier one is known."""

    __slots__ = ("attempt", "is_edns", "number", "port", "question", "rounds", "servers", "unsure", "waiters")

    def __init__(self, question: bytes, servers: Sequence[Server]) -> None:
        self.question = question
        self.waiters: list[Then] = []
        self.servers: Iterator[Server] = iter(servers)
        self.rounds = 1
        self.attempt = 0
        self.is_edns = True
        self.port: _Port | None = None
        self.number = 0
        self.unsure: Answer | None = None  # an error, or an answer that was cut: better than none


class _Port:
    """A socket that is connected to one server, so that the kernel drops datagrams of others, and reports a closed
    port. `pending` has the flights by the id of their query."""

    __slots__ = ("pending", "queries", "server", "sock")

    def __init__(self, server: Server) -> None:
        self.server = server
        self.pending: dict[int, _Flight] = {}
        self.queries = 0
        family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self.sock.connect(server)
        except BaseException:
            self.sock.close()
            raise


class Upstream:
    """Made by `open_upstream`."""

    def __init__(self, servers: Servers, cache: Cache, nursery: trio.Nursery) -> None:
        self._servers = servers
        self._cache = cache
        self._nursery = nursery  # of the tasks that ask over TCP
        self._flights: dict[bytes, _Flight] = {}
        self._lacking: dict[bytes, float] = {}
        self._plain: dict[Server, float] = {}
        self._ports: dict[Server, list[_Port]] = {}
        self._by_fd: dict[int, _Port] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._orders = itertools.count()
        self._tries: deque[tuple[float, _Flight, int]] = deque()  # all take the same time, so the first ends first
        self._randoms: list[int] = []
        self._waiting = trio.CancelScope()
        self._epoll = select.epoll()

    def close(self) -> None:
        for port in self._by_fd.values():
            port.sock.close()
        self._epoll.close()

    # ---- questions, whose names are in lower case ----

    def cached(self, question: bytes) -> Answer | None:
        """Returns the answer if it is known."""
        return self._cache.get(question, trio.current_time())

    def is_lacking(self, question: bytes) -> bool:
        """Whether the question was asked a moment ago, without an answer that can be kept."""
        until = self._lacking.get(question)
        return until is not None and trio.current_time() < until

    def ask(self, question: bytes, then: Then) -> None:
        """Calls `then` with the answer, perhaps at once. It must not raise.

        An error of a server (SERVFAIL, REFUSED, …) is the answer only if no other server has a better one.
        """
        known = self.cached(question)
        if known is not None:
            then(known)
            return
        if (flying := self._flights.get(question)) is not None:
            flying.waiters.append(then)
            return
        flight = self._flights[question] = _Flight(question, self._servers.now())
        flight.waiters.append(then)
        self._next(flight)

    def later(self, seconds: float, then: Callable[[], None]) -> None:
        """Calls `then` after this time. It must not raise."""
        deadline = trio.current_time() + seconds
        heapq.heappush(self._timers, (deadline, next(self._orders), then))
        self._wake_at(deadline)

    def _wake_at(self, deadline: float) -> None:
        if deadline < self._waiting.deadline:
            self._waiting.deadline = deadline

    async def query(self, question: bytes) -> Answer:
        """Returns the answer. Raises NoAnswer."""
        answers: list[Answer | None] = []
        has_come = trio.Event()

        def come(answer: Answer | None) -> None:
            answers.append(answer)
            has_come.set()

        self.ask(question, come)
        await has_come.wait()
        if answers[0] is None:
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
                        age = int(trio.current_time() - answer.came)
                        found.ttl = min(found.ttl, max(answer.lowest - age, 0))
                        nursery.cancel_scope.deadline = trio.current_time() + SECOND_FAMILY

            nursery.start_soon(ask, A, found.v4)
            nursery.start_soon(ask, AAAA, found.v6)
        return found

    # ---- the task, and the events of sockets and time ----

    async def run(self) -> None:
        """Reads answers and repeats queries, until cancelled."""
        while True:
            with trio.CancelScope(deadline=self._deadline()) as self._waiting:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
            ready = self._epoll.poll(0, BATCH)
            for fd, _ in ready:
                if (port := self._by_fd.get(fd)) is not None:
                    self._read(port)
            if len(ready) >= BUSY:
                await trio.sleep(PACE)
            self._expire(trio.current_time())

    def _deadline(self) -> float:
        tries = self._tries[0][0] if self._tries else float("inf")
        return min(tries, self._timers[0][0]) if self._timers else tries

    def _expire(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()
        while self._tries and (self._tries[0][0] <= now or self._tries[0][1].attempt != self._tries[0][2]):
            _, flight, attempt = self._tries.popleft()
            if flight.attempt == attempt:
                self._next(flight)

    def _read(self, port: _Port) -> None:
        """Reads one message of a socket that is ready."""
        try:
            wire = port.sock.recv(lib.MESSAGE_MAX)
        except BlockingIOError:
            return
        except OSError:  # the server's port is closed, or it is unreachable
            waiting = list(port.pending.values())
            port.pending.clear()
            for flight in waiting:
                self._next(flight)
            return
        number = int.from_bytes(wire[:2], "big")
        asking = port.pending.get(number)
        if asking is None:
            return
        answer = read_answer(wire, number, asking.question, trio.current_time())
        if answer is not None:
            self._leave_port(asking)
            self._got(asking, port.server, answer)

    def _got(self, flight: _Flight, server: Server, answer: Answer) -> None:
        if answer.is_cut:
            flight.unsure = answer
            flight.attempt += 1
            self._nursery.start_soon(self._over_tcp, flight, server)
        elif answer.code in (NOERROR, NXDOMAIN):
            self._finish(flight, answer)
        elif flight.is_edns and not answer.has_edns and answer.code in (FORMERR, NOTIMP):
            self._plain[server] = trio.current_time() + PLAIN  # the server knows no EDNS (RFC 6891 section 7)
            if not self._send(flight, server):
                self._next(flight)
        else:
            flight.unsure = flight.unsure or answer
            self._next(flight)

    def _finish(self, flight: _Flight, answer: Answer | None) -> None:
        del self._flights[flight.question]
        flight.attempt += 1
        if answer is not None and answer.ttl:
            self._cache.put(flight.question, answer)
        else:
            if len(self._lacking) >= LACKING_MAX:
                self._lacking.clear()
            self._lacking[flight.question] = trio.current_time() + LACKING
        for then in flight.waiters:
            then(answer)

    # ---- queries ----

    def _next(self, flight: _Flight) -> None:
        """Asks the next server. After the last round the flight ends with the best answer there was."""
        self._leave_port(flight)
        while True:
            for server in flight.servers:
                if self._send(flight, server):
                    return
            if flight.unsure is not None or flight.rounds == ROUNDS:
                self._finish(flight, flight.unsure)
                return
            flight.rounds += 1
            flight.servers = iter(self._servers.now())

    def _send(self, flight: _Flight, server: Server) -> bool:
        """Sends the query to a server. Returns False if that failed."""
        flight.is_edns = self._plain.get(server, 0.0) <= trio.current_time()
        try:
            port = self._port(server)
        except OSError:
            return False
        number = self._random()
        while number in port.pending:
            number = (number + 1) & 0xFFFF
        try:
            port.sock.send(_query(number, flight))
        except OSError:
            self._retire(port)
            return False
        port.pending[number] = flight
        flight.port, flight.number = port, number
        flight.attempt += 1
        self._tries.append((trio.current_time() + TRY, flight, flight.attempt))
        if len(self._tries) == 1:
            self._wake_at(self._tries[0][0])
        return True

    def _random(self) -> int:
        """Returns 16 bits that nobody can guess."""
        if not self._randoms:
            self._randoms = list(struct.unpack("=1024H", os.urandom(2048)))
        return self._randoms.pop()

    def _port(self, server: Server) -> _Port:
        """Returns one of the server's sockets by chance, perhaps a new one. Raises OSError if it can have none."""
        ports = self._ports.setdefault(server, [])
        chosen = self._random() % PORTS
        if chosen < len(ports):
            port = ports[chosen]
        else:
            try:
                port = self._open(server)
            except OSError:
                if not ports:
                    raise
                port = ports[chosen % len(ports)]
            else:
                ports.append(port)
        port.queries += 1
        if port.queries == QUERIES:
            ports.remove(port)
        return port

    def _open(self, server: Server) -> _Port:
        port = _Port(server)
        try:
            self._epoll.register(port.sock.fileno(), select.EPOLLIN)
        except BaseException:
            port.sock.close()
            raise
        self._by_fd[port.sock.fileno()] = port
        return port

    def _leave_port(self, flight: _Flight) -> None:
        """Ends the flight's query."""
        port, flight.port = flight.port, None
        if port is not None:
            port.pending.pop(flight.number, None)
            self._retire(port)

    def _retire(self, port: _Port) -> None:
        """Closes a socket that has had its queries, with the last of them."""
        if port.queries >= QUERIES and not port.pending:
            self._by_fd.pop(port.sock.fileno(), None)
            port.sock.close()

    async def _over_tcp(self, flight: _Flight, server: Server) -> None:
        """Asks for an answer that was cut once more, over TCP. If that fails, the next server is asked."""
        attempt = flight.attempt
        number = self._random()
        answer = None
        with contextlib.suppress(*TRANSIENT):
            with trio.fail_after(TRY):
                wire = await _exchange(_query(number, flight), server)
            answer = read_answer(wire, number, flight.question, trio.current_time())
        if flight.attempt != attempt:
            return
        if answer is None or answer.is_cut:
            self._next(flight)
        else:
            self._got(flight, server, answer)


@asynccontextmanager
async def open_upstream(
    servers: Servers, *, cache_size: int = CACHE_SIZE
) -> AsyncIterator[Upstream]:
    """Opens the way to the upstream servers while the block lasts. `cache_size`: bytes for answers that are kept."""
    async with trio.open_nursery() as nursery:
        upstream = Upstream(servers, Cache(cache_size), nursery)
        try:
            nursery.start_soon(upstream.run)
            yield upstream
            nursery.cancel_scope.cancel()
        finally:
            upstream.close()


def addresses(answer: Answer) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Returns the answer's addresses."""
    packed = answer.packed
    return [unpacked(packed[at : at + 16]) for at in range(0, len(packed), 16)]


def _query(number: int, flight: _Flight) -> bytes:
    if flight.is_edns:
        return number.to_bytes(2, "big") + RECURSIVE + b"\0\1" + flight.question + OPT
    return number.to_bytes(2, "big") + RECURSIVE + b"\0\0" + flight.question


async def _exchange(query: bytes, server: Server) -> bytes:
    """Returns a server's answer over TCP (RFC 7766). Raises OSError, or BrokenResourceError if the server ends."""
    family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    with trio.socket.socket(family, socket.SOCK_STREAM) as sock:
        await sock.connect(server)
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
