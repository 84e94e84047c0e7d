"""Answers the containers' queries that C doesn't: names that rules serve or deny, the container's own, all over TCP.

C (cext/resolver.h) passes the others on by itself. The addresses in an answer are published to the relay first, so that
it knows the name of a connection to them.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import astuple, dataclass, field
from typing import Any, Protocol

import dns.exception
import dns.name
import dns.reversename
import trio
from dns.rcode import NOERROR, NXDOMAIN, SERVFAIL
from dns.rdatatype import AAAA, PTR, A

from pyinterceptor._relay import ffi, lib
from pyinterceptor.dns.answers import reply
from pyinterceptor.dns.names import Names, NamesFull, Synthetic
from pyinterceptor.dns.query import Query, read
from pyinterceptor.dns.upstream import Upstream
from pyinterceptor.errors import PeerError
from pyinterceptor.policy.addresses import Address, packed
from pyinterceptor.policy.budget import Budget

LOOPBACK = {int(A): ipaddress.IPv4Address("127.0.0.1").packed, int(AAAA): ipaddress.IPv6Address("::1").packed}
VERSIONS = {int(A): 4, int(AAAA): 6}
LOG_AGAIN = 10.0  # seconds between two lines about lost queries
ARPA = b"\4arpa\0"

log = logging.getLogger("pyinterceptor")


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

    def publish_addresses(self, container: int, name: str, packed: bytes, seconds: float) -> bool: ...

    def name_failed(self, container: int, name: str) -> None: ...


class Observer(Protocol):
    """What is made of one container's questions."""

    def answered(self, query: Query, verdict: int, code: int, asked: float) -> None:
        """`code` is the answer's; `asked` is of the resolver's clock."""

    def over_budget(self, query: Query) -> None: ...

    def failed(self, query: Query, error: Exception) -> None: ...


@dataclass(frozen=True, slots=True)
class QueryCounters:
    """Counts of DNS queries, of one container or of all that run.

    `over_budget`: they exceeded the budget, so that they were truncated over UDP, and waited over TCP. `names_full`:
    they got no synthetic address. `unanswered`: no upstream server answered. `waiting`: for upstream, now. `lost`, of
    all containers only: the queue of the socket that all share had no room.
    """

    queries: int = 0
    over_budget: int = 0
    names_full: int = 0
    unanswered: int = 0
    waiting: int = 0
    lost: int = 0

    def __add__(self, other: QueryCounters) -> QueryCounters:
        return QueryCounters(*map(sum, zip(astuple(self), astuple(other), strict=True)))


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
    own: tuple[str, Mapping[int, bytes]] = ("", {})  # the container's host name, and its addresses by type
    queries: int = 0  # over TCP
    streams_waited: int = 0  # queries over TCP that waited for a place among the streams
    names_full: int = 0
    asker: Any = None  # its `struct asker`; None before and after it is served
    streams: trio.Semaphore = field(init=False)  # places of queries over TCP that are answered at once

    def __post_init__(self) -> None:
        self.streams = trio.Semaphore(self.budget.query_streams)


class Resolver:
    """Answers the queries of all containers. The state of one container is in its `Lookups`."""

    def __init__(self, *, upstream: Upstream, relay: Publisher, v6: bool) -> None:
        self._upstream = upstream
        self._handle = upstream.handle
        self._relay = relay
        self._served: dict[int, Lookups] = {}  # by number
        self._lost = 0  # that the log has counted
        self._log_again = 0.0  # seconds: the time of the next line about them
        self.dropped: Callable[[int], None] = lambda count: None  # called with a number of records that are lost
        upstream.asked = self
        self.set_ipv6(v6)

    def add(self, lookups: Lookups, interface: int) -> None:
        """Serves the container whose queries arrive on the interface."""
        budget = ffi.new("struct resolver_budget *", (lookups.budget.queries, lookups.budget.query_queue))
        own = lookups.own[0].encode("ascii", "replace")[: lib.HOST_MAX]
        lookups.asker = lib.resolver_add(self._handle, lookups.container, interface, budget, own)
        if lookups.asker == ffi.NULL:
            raise MemoryError
        self._served[lookups.container] = lookups

    def remove(self, lookups: Lookups) -> None:
        """Ends what `add` began, if it did."""
        if self._served.pop(lookups.container, None) is not None:
            lib.resolver_remove(self._handle, lookups.asker)
            lookups.asker = None

    def set_ipv6(self, v6: bool) -> None:
        """Sets whether the host has an IPv6 route. Without one, no answer has AAAA records."""
        self._v6 = v6
        lib.resolver_set_v6(self._handle, v6)

    def observe(self, is_wanted: bool) -> None:
        """Sets whether the observers are told of the queries that C answers."""
        lib.resolver_observe(self._handle, is_wanted)

    def count_all(self) -> QueryCounters:
        """Returns the sums over all containers that are served."""
        lost = QueryCounters(lost=lib.resolver_lost(self._handle))
        return sum(map(self.count, self._served.values()), lost)

    def count(self, lookups: Lookups) -> QueryCounters:
        """Returns the counters of a container that is served."""
        counts = ffi.new("struct resolver_counts *")
        lib.resolver_count(self._handle, lookups.asker, counts)
        return QueryCounters(
            counts.queries + lookups.queries,
            counts.over_budget + lookups.streams_waited,
            lookups.names_full,
            counts.unanswered,
            counts.waiting,
        )

    # ---- over UDP: the events of C ----

    def take(self, event: Any) -> None:
        """Takes an event about a container."""
        lookups = self._served.get(event.container)
        if event.kind == lib.RESOLVER_LOST:
            self._log_lost()
        if lookups is None:
            return
        wire = ffi.buffer(event.bytes, event.length)[:]
        query = read(wire)
        if event.kind == lib.RESOLVER_QUESTION:
            self._question(lookups, event, query, wire)
        elif event.kind == lib.RESOLVER_ANSWERED:
            lookups.observer.answered(query, lib.VERDICT_SPLICE, event.code, event.came)
        elif event.kind == lib.RESOLVER_OVER_BUDGET:
            lookups.observer.over_budget(query)

    def taken(self) -> None:
        """Reports the records that were lost."""
        if dropped := lib.resolver_dropped(self._handle):
            self.dropped(dropped)

    def _log_lost(self) -> None:
        """Logs how many datagrams were lost, at most once in LOG_AGAIN seconds."""
        now, lost = self._upstream.clock(), lib.resolver_lost(self._handle)
        if now >= self._log_again:
            self._log_again = now + LOG_AGAIN
            log.warning("%d DNS queries lost: the queue of all containers' queries was full", lost - self._lost)
            self._lost = lost

    def _question(self, lookups: Lookups, event: Any, query: Query, wire: bytes) -> None:
        try:
            answer = self.known(lookups, query, event.came)
        except Exception as error:
            lookups.observer.failed(query, error)
            answer = reply(query, SERVFAIL)
        way = ffi.addressof(event, "way")
        if answer is None:
            lib.resolver_pass(self._handle, lookups.asker, way, wire, len(wire), self._upstream.clock())
        else:
            lib.resolver_reply(self._handle, lookups.asker, way, answer, len(answer))

    # ---- over TCP, and for flows ----

    async def answer(self, lookups: Lookups, wire: bytes) -> bytes | None:
        """Returns the answer's bytes, or None if there must be none. Waits for a place, and for upstream."""
        asked = self._upstream.clock()
        try:
            query = read(wire)
        except PeerError:
            return None
        lookups.queries += 1
        answer = self.known(lookups, query, asked)
        return answer if answer is not None else await self._ask(lookups, wire)

    async def _ask(self, lookups: Lookups, wire: bytes) -> bytes:
        answers: list[bytes] = []
        has_come = trio.Event()

        def come(event: Any) -> None:
            answers.append(ffi.buffer(event.bytes, event.length)[:])
            has_come.set()

        token = self._upstream.token(come)
        lib.resolver_query(self._handle, lookups.asker, token, wire, len(wire), self._upstream.clock())
        try:
            await has_come.wait()
        except BaseException:
            self._upstream.forget(token)
            lib.resolver_withdraw(self._handle, lookups.asker, token)
            raise
        return answers[0]

    @asynccontextmanager
    async def _place(self, lookups: Lookups) -> AsyncIterator[None]:
        """Waits for a place among the container's queries that wait for upstream, and holds it."""
        has_come = trio.Event()
        token = self._upstream.token(lambda event: has_come.set())
        if lib.resolver_enter(self._handle, lookups.asker, token):
            has_come.set()
        was_withdrawn = False
        try:
            try:
                await has_come.wait()
            except BaseException:
                was_withdrawn = bool(lib.resolver_withdraw(self._handle, lookups.asker, token))
                raise
            yield
        finally:
            self._upstream.forget(token)
            if not was_withdrawn:
                lib.resolver_leave(self._handle, lookups.asker, self._upstream.clock())

    async def refresh(self, lookups: Lookups, name: str) -> None:
        """Resolves a name that a flow waits to dial, and publishes its addresses or the failure to the relay."""
        async with self._place(lookups):
            found = await self._upstream.resolve(name)
        texts = dict.fromkeys(found.both())
        wanted = b"".join(packed(ipaddress.ip_address(text)) for text in texts if self._v6 or ":" not in text)
        container = lookups.container
        if not wanted or not self._relay.publish_addresses(container, name, wanted, max(found.ttl, 1)):
            self._relay.name_failed(container, name)

    # ---- answers that need no upstream ----

    def known(self, lookups: Lookups, query: Query, asked: float) -> bytes | None:
        """Returns the answer, which is observed; None if only upstream knows it."""
        verdict = lookups.decide(query.host)
        answer = self._known(lookups, query, verdict)
        if answer is not None:
            lookups.observer.answered(query, verdict, answer[3] & 0xF, asked)
        return answer

    def _known(self, lookups: Lookups, query: Query, verdict: int) -> bytes | None:
        host = query.host
        if query.code != NOERROR:
            return reply(query, query.code)
        if host == "localhost" or host.endswith(".localhost"):  # always the container itself (RFC 6761)
            return self._one_of(query, LOOPBACK.get(query.kind))
        if host and host == lookups.own[0]:
            return self._one_of(query, lookups.own[1].get(query.kind))
        if (address := _reversed(query)) is not None and address in lookups.names.networks:
            return self._pointer(lookups, query, address)
        if verdict == lib.VERDICT_HANDLE:
            return self._synthetic(lookups, query, host)
        if verdict == lib.VERDICT_REFUSE:
            return reply(query, NXDOMAIN)
        return None

    def _one_of(self, query: Query, address: bytes | None) -> bytes:
        """Returns an answer with this address of the requested type; for any other type it is None, and the answer
        empty."""
        return reply(query, record=None if query.kind == AAAA and not self._v6 else address)

    def _synthetic(self, lookups: Lookups, query: Query, host: str) -> bytes:
        version = VERSIONS.get(query.kind)
        if not host or version is None:
            return reply(query)

        def publish(pair: Synthetic) -> bool:
            return self._relay.publish_name(lookups.container, pair.name, (pair.v4, pair.v6), (), 0)

        try:
            pair = lookups.names.pair(host, trio.current_time(), publish)
        except NamesFull:
            lookups.names_full += 1
            lookups.observer.over_budget(query)
            return reply(query, SERVFAIL)
        return self._one_of(query, pair.packed(version))

    def _pointer(self, lookups: Lookups, query: Query, address: Address) -> bytes:
        """Returns the answer to a reverse lookup of a synthetic address, which no upstream server could answer."""
        name = lookups.names.name_of(address)
        if name is None:
            return reply(query, NXDOMAIN)
        return reply(query, record=dns.name.from_text(name).to_wire() if query.kind == PTR else None)


def _reversed(query: Query) -> Address | None:
    """Returns the address in a reverse lookup such as 1.0.18.198.in-addr.arpa. None for any other query."""
    if not query.question[:-4].lower().endswith(ARPA):
        return None
    try:
        return ipaddress.ip_address(dns.reversename.to_address(dns.name.Name((*query.labels, b""))))
    except (dns.exception.DNSException, ValueError):
        return None
