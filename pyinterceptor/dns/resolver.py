"""Answers the containers' queries. The policy decides between a synthetic address, upstream's answer, and a refusal.

The addresses in an answer are published to the relay first, so that it knows the name of a connection to them.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

import dns.exception
import dns.message
import dns.name
import dns.reversename
import trio
from dns.rcode import NOERROR, NXDOMAIN, SERVFAIL
from dns.rdatatype import AAAA, PTR, A

from pyinterceptor._relay import lib
from pyinterceptor.dns.answers import addresses, passed, reply
from pyinterceptor.dns.names import Names, NamesFull, Synthetic
from pyinterceptor.dns.query import Query, read
from pyinterceptor.dns.upstream import NoAnswer, Upstream
from pyinterceptor.errors import PeerError
from pyinterceptor.policy.addresses import Address
from pyinterceptor.policy.budget import Budget

KEPT = 300.0  # seconds, at least, for which the relay remembers an address's name: clients exceed the TTL of answers
LOOPBACK: dict[int, Address] = {A: ipaddress.IPv4Address("127.0.0.1"), AAAA: ipaddress.IPv6Address("::1")}


class Publisher(Protocol):
    """The part of the relay that the resolver uses."""

    def publish_name(
        self,
        container: int,
        name: str,
        synthetic: tuple[Address, Address] | None,
        addresses: Sequence[Address],
        seconds: float,
    ) -> bool: ...

    def name_failed(self, container: int, name: str) -> None: ...


class Observer(Protocol):
    """What is made of one container's questions."""

    def answered(self, query: Query, verdict: int, answer: bytes, asked: float) -> None:
        """`asked` is of `time.monotonic()`."""

    def over_budget(self, query: Query) -> None: ...

    def failed(self, query: Query, error: Exception) -> None: ...


@dataclass(slots=True)
class Counts:
    """Counters of one container: all queries, and those that failed because the budget was used up, no synthetic
    address was free, or no upstream server answered."""

    queries: int = 0
    over_budget: int = 0
    names_full: int = 0
    unanswered: int = 0


@dataclass(slots=True)
class Lookups:
    """The DNS side of one container's run, which owns it: synthetic names, budget and counts.

    `decide(host)` returns the verdict of an HTTP request for the host.
    """

    container: int  # its number
    decide: Callable[[str], int]
    budget: Budget
    names: Names
    observer: Observer
    counts: Counts = field(default_factory=Counts)
    waiting: int = 0
    streams: int = 0

    @contextmanager
    def stream(self) -> Iterator[bool]:
        """Counts a TCP connection against the budget. Yields False if the budget is used up."""
        has_place = self.streams < self.budget.query_streams
        self.counts.over_budget += not has_place
        self.streams += 1
        try:
            yield has_place
        finally:
            self.streams -= 1


@dataclass(frozen=True, slots=True)
class Waiting:
    """A query that waits for upstream. It counts against the budget until `Resolver.passed` has answered it."""

    lookups: Lookups
    query: Query
    verdict: int
    asked: float
    udp: bool


class Resolver:
    """Answers the queries of all containers. The state of one container is in its `Lookups`."""

    def __init__(self, *, upstream: Upstream, relay: Publisher, v6: bool) -> None:
        self._upstream = upstream
        self._relay = relay
        self._v6 = v6

    def answer_nowait(self, lookups: Lookups, wire: bytes, *, udp: bool) -> bytes | Waiting | None:
        """Returns the answer's bytes, or a `Waiting` for `passed` if upstream must be asked. None: don't answer."""
        try:
            query = read(wire)
        except PeerError:
            return None
        asked, verdict = time.monotonic(), lookups.decide(query.host)
        lookups.counts.queries += 1
        answer = self._known(lookups, query, verdict)
        if answer is None:
            lookups.waiting += 1
            return Waiting(lookups, query, verdict, asked, udp)
        lookups.observer.answered(query, verdict, answer, asked)
        return answer

    def _known(self, lookups: Lookups, query: Query, verdict: int) -> bytes | None:
        """The answer, None if only upstream knows."""
        host = query.host
        if query.code != NOERROR:
            return reply(query, query.code)
        if host == "localhost" or host.endswith(".localhost"):  # always the container itself (RFC 6761)
            return self._one_of(query, LOOPBACK)
        if (address := _reversed(query)) is not None and address in lookups.names.networks:
            return self._pointer(lookups, query, address)
        if verdict == lib.VERDICT_HANDLE:
            return self._synthetic(lookups, query, host)
        if verdict == lib.VERDICT_REFUSE:
            return reply(query, NXDOMAIN)
        if lookups.waiting >= lookups.budget.queries:
            lookups.counts.over_budget += 1
            lookups.observer.over_budget(query)
            return reply(query, SERVFAIL)
        return None

    async def answer(self, lookups: Lookups, wire: bytes, *, udp: bool) -> bytes | None:
        """Returns the answer's bytes. None: don't answer."""
        answer = self.answer_nowait(lookups, wire, udp=udp)
        return await self.passed(answer) if isinstance(answer, Waiting) else answer

    async def passed(self, waiting: Waiting) -> bytes:
        """Returns upstream's answer. Publishes the name's addresses of both families, whichever was requested."""
        lookups, query = waiting.lookups, waiting.query
        try:
            response, others = await self._ask(query)
        finally:
            lookups.waiting -= 1
        answer = self._passed(waiting, response, others)
        lookups.observer.answered(query, waiting.verdict, answer, waiting.asked)
        return answer

    def _passed(self, waiting: Waiting, response: dns.message.Message | None, others: Sequence[str]) -> bytes:
        lookups, query = waiting.lookups, waiting.query
        if response is None:
            lookups.counts.unanswered += 1
            return reply(query, SERVFAIL)
        told, ttl = addresses(response)
        if told and query.host:
            self._publish(lookups.container, query.host, [*told, *others], max(ttl, KEPT))
        return passed(query, response, v6=self._v6, udp=waiting.udp)

    async def refresh(self, container: int, name: str) -> None:
        """Resolves a name that a flow waits to dial, and publishes its addresses or the failure to the relay."""
        found = await self._upstream.resolve(name)
        if not self._publish(container, name, found.both(), max(found.ttl, 1)):
            self._relay.name_failed(container, name)

    def set_ipv6(self, v6: bool) -> None:
        """Sets whether the host has an IPv6 route. Without one, no answer has AAAA records."""
        self._v6 = v6

    def _one_of(self, query: Query, pair: Mapping[int, Address]) -> bytes:
        """Returns an answer with the address of the requested type. For any other type, the answer is empty."""
        address = None if query.kind == AAAA and not self._v6 else pair.get(query.kind)
        return reply(query, record=None if address is None else address.packed)

    def _synthetic(self, lookups: Lookups, query: Query, host: str) -> bytes:
        if not host or query.kind not in (A, AAAA):
            return reply(query)

        def publish(pair: Synthetic) -> bool:
            return self._relay.publish_name(lookups.container, pair.name, (pair.v4, pair.v6), (), 0)

        try:
            pair = lookups.names.pair(host, trio.current_time(), publish)
        except NamesFull:
            lookups.counts.names_full += 1
            lookups.observer.over_budget(query)
            return reply(query, SERVFAIL)
        return self._one_of(query, {A: pair.v4, AAAA: pair.v6})

    def _pointer(self, lookups: Lookups, query: Query, address: Address) -> bytes:
        """Returns the answer to a reverse lookup of a synthetic address, which no upstream server could answer."""
        name = lookups.names.name_of(address)
        if name is None:
            return reply(query, NXDOMAIN)
        return reply(query, record=dns.name.from_text(name).to_wire() if query.kind == PTR else None)

    async def _ask(self, query: Query) -> tuple[dns.message.Message | None, list[str]]:
        """Returns upstream's answer, or None if there is none. If it has addresses, also returns all addresses of the
        name."""
        response, others = None, list[str]()

        async def both() -> None:
            others.extend((await self._upstream.resolve(query.host)).both())

        async with trio.open_nursery() as nursery:
            if query.host and query.kind in (A, AAAA):
                nursery.start_soon(both)
            with suppress(NoAnswer):
                response = await self._upstream.query(dns.name.Name((*query.labels, b"")), query.kind)
            if response is None or not addresses(response)[0]:
                nursery.cancel_scope.cancel()
        return response, others

    def _publish(self, container: int, name: str, texts: Sequence[str], seconds: float) -> bool:
        """Publishes the addresses that the host can reach. Returns False if there are none, or the relay refused."""
        found = [ipaddress.ip_address(text) for text in dict.fromkeys(texts) if self._v6 or ":" not in text]
        return bool(found) and self._relay.publish_name(container, name, None, found, seconds)


def _reversed(query: Query) -> Address | None:
    """Returns the address in a reverse lookup such as 1.0.18.198.in-addr.arpa. None for any other query."""
    if not query.labels or query.labels[-1].lower() != b"arpa":
        return None
    try:
        return ipaddress.ip_address(dns.reversename.to_address(dns.name.Name((*query.labels, b""))))
    except (dns.exception.DNSException, ValueError):
        return None
