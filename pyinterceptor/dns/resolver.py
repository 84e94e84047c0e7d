"""Answers the containers' queries. The policy decides between a synthetic address, upstream's answer, and a refusal.

The addresses in an answer are published to the relay first, so that it knows the name of a connection to them.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import dns.exception
import dns.name
import dns.reversename
import trio
from dns.rcode import NOERROR, NXDOMAIN, SERVFAIL
from dns.rdatatype import AAAA, PTR, A

from pyinterceptor._relay import lib
from pyinterceptor.dns.answers import Answer, passed, reply
from pyinterceptor.dns.names import Names, NamesFull, Synthetic
from pyinterceptor.dns.query import Query, folded, question_of, read
from pyinterceptor.dns.upstream import SECOND_FAMILY, Upstream
from pyinterceptor.errors import PeerError
from pyinterceptor.policy.addresses import V4_MAPPED, Address, packed
from pyinterceptor.policy.budget import Budget

HOT_MAX = 512  # answers of one container
KEPT = 300.0  # seconds, at least, for which the relay remembers an address's name: clients exceed the TTL of answers
LOOPBACK = {int(A): ipaddress.IPv4Address("127.0.0.1").packed, int(AAAA): ipaddress.IPv6Address("::1").packed}
VERSIONS = {int(A): 4, int(AAAA): 6}
OTHER_FAMILY = {int(A): int(AAAA), int(AAAA): int(A)}
ARPA = b"\4arpa\0"


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

    def answered(self, query: Query, verdict: int, answer: bytes, asked: float) -> None:
        """`asked` is of `time.monotonic()`."""

    def over_budget(self, query: Query) -> None: ...

    def failed(self, query: Query, error: Exception) -> None: ...


@dataclass(slots=True)
class Counts:
    """Counters of one container: all queries, and those that were over its budget (over UDP they were truncated, over
    TCP they waited), that got no synthetic address, or that no upstream server answered."""

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
    own: tuple[str, Mapping[int, bytes]] = ("", {})  # the container's host name, and its addresses by type
    counts: Counts = field(default_factory=Counts)
    hot: dict[bytes, Hot] = field(default_factory=dict)  # by a query's bytes after its id
    upstream: trio.Semaphore = field(init=False)  # places of queries that wait for upstream
    streams: trio.Semaphore = field(init=False)  # places of queries over TCP that are answered at once

    def __post_init__(self) -> None:
        self.upstream = trio.Semaphore(self.budget.queries)
        self.streams = trio.Semaphore(self.budget.query_streams)

    @property
    def waiting(self) -> int:
        """The number of queries that wait for upstream."""
        return self.budget.queries - self.upstream.value


class Hot(NamedTuple):
    """An answer that was given a moment ago. It is given again, with another id, until its TTLs are lower by a second.

    `addresses` are published each time, so that an address leads to the name that was asked last.
    """

    query: Query
    verdict: int
    answer: bytes
    addresses: bytes
    seconds: float  # for which the addresses are published
    until: float
    v6: bool  # whether it may have IPv6 addresses


class Waiting:
    """A query that only upstream can answer. It has one of the container's places from `Resolver.start` to its answer.

    `then` is called with the answer's bytes.
    """

    __slots__ = ("asked", "both", "is_done", "lookups", "other", "own", "query", "then", "udp", "verdict")

    def __init__(self, lookups: Lookups, query: Query, verdict: int, asked: float, udp: bool) -> None:
        self.lookups = lookups
        self.query = query
        self.verdict = verdict
        self.asked = asked
        self.udp = udp
        self.then: Callable[[bytes], None] | None = None
        self.own: Answer | None = None
        self.other: Answer | None = None
        self.both = False  # whether the other family was asked too, and has not answered
        self.is_done = False


class Resolver:
    """Answers the queries of all containers. The state of one container is in its `Lookups`."""

    def __init__(self, *, upstream: Upstream, relay: Publisher, v6: bool) -> None:
        self._upstream = upstream
        self._relay = relay
        self._v6 = v6

    def answer_nowait(
        self, lookups: Lookups, wire: bytes, *, udp: bool, then: Callable[[bytes], None] | None = None
    ) -> bytes | Waiting | None:
        """Returns the answer's bytes; None for noise. If upstream must be asked, returns a `Waiting`.

        Over UDP the `Waiting` has begun: `then` is called with its answer. If the container's places are taken, the
        answer is truncated, so that the client repeats its query over TCP, where it waits for a place. A `Waiting` over
        TCP has not begun.
        """
        asked = time.monotonic()
        if udp and (hot := lookups.hot.get(wire[2:])) is not None:
            if self._is_valid(lookups, hot):
                return self._again(lookups, hot, wire[:2], asked)
            del lookups.hot[wire[2:]]
        try:
            query = read(wire)
        except PeerError:
            return None
        verdict = lookups.decide(query.host)
        lookups.counts.queries += 1
        answer = self._known(lookups, query, verdict)
        if answer is None:
            answer = self._cached(lookups, query, verdict, wire[2:] if udp else None)
        if answer is None:
            waiting = Waiting(lookups, query, verdict, asked, udp)
            if not udp:
                return waiting
            if lookups.upstream.value:
                lookups.upstream.acquire_nowait()
                self._start(waiting, then)
                return waiting
            answer = self._too_many(lookups, query)
        lookups.observer.answered(query, verdict, answer, asked)
        return answer

    def overflow(self, lookups: Lookups, wire: bytes) -> bytes | None:
        """Returns a truncated answer, for a query over UDP that exceeds the container's queue; None for noise."""
        try:
            query = read(wire)
        except PeerError:
            return None
        lookups.counts.queries += 1
        return self._too_many(lookups, query)

    async def answer(self, lookups: Lookups, wire: bytes, *, udp: bool = False) -> bytes | None:
        """Returns the answer's bytes, or None if there must be none. Waits for a place, and for upstream."""
        answer = self.answer_nowait(lookups, wire, udp=False)
        if not isinstance(answer, Waiting):
            return answer
        answer.udp = udp
        if not lookups.upstream.value:
            lookups.counts.over_budget += 1
        await lookups.upstream.acquire()
        answers: list[bytes] = []
        has_come = trio.Event()

        def come(wire: bytes) -> None:
            answers.append(wire)
            has_come.set()

        self._start(answer, come)
        try:
            await has_come.wait()
        except BaseException:
            answer.then = None
            raise
        return answers[0]

    async def refresh(self, container: int, name: str) -> None:
        """Resolves a name that a flow waits to dial, and publishes its addresses or the failure to the relay."""
        found = await self._upstream.resolve(name)
        texts = dict.fromkeys(found.both())
        wanted = b"".join(packed(ipaddress.ip_address(text)) for text in texts if self._v6 or ":" not in text)
        if not wanted or not self._relay.publish_addresses(container, name, wanted, max(found.ttl, 1)):
            self._relay.name_failed(container, name)

    def set_ipv6(self, v6: bool) -> None:
        """Sets whether the host has an IPv6 route. Without one, no answer has AAAA records."""
        self._v6 = v6

    # ---- answers that need no upstream ----

    def _known(self, lookups: Lookups, query: Query, verdict: int) -> bytes | None:
        """Returns the answer; None if only upstream knows it."""
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
            lookups.counts.names_full += 1
            lookups.observer.over_budget(query)
            return reply(query, SERVFAIL)
        return self._one_of(query, pair.packed(version))

    def _pointer(self, lookups: Lookups, query: Query, address: Address) -> bytes:
        """Returns the answer to a reverse lookup of a synthetic address, which no upstream server could answer."""
        name = lookups.names.name_of(address)
        if name is None:
            return reply(query, NXDOMAIN)
        return reply(query, record=dns.name.from_text(name).to_wire() if query.kind == PTR else None)

    def _cached(self, lookups: Lookups, query: Query, verdict: int, hot: bytes | None) -> bytes | None:
        """Returns upstream's answer if it and the other family's are known. `hot` is the key to keep it by, over
        UDP."""
        own = self._upstream.cached(folded(query.question))
        if own is None:
            return None
        other = None
        if own.packed and (question := self._other(query)):
            other = self._upstream.cached(question)
            if other is None and not self._upstream.is_lacking(question):
                return None
        answer, addresses, seconds = self._pass(lookups, query, own, other, hot is not None)
        if hot is not None:
            if len(lookups.hot) >= HOT_MAX:
                lookups.hot.clear()
            age = trio.current_time() - own.came
            until = own.came + min(int(age) + 1, own.ttl)
            lookups.hot[hot] = Hot(query, verdict, answer[2:], addresses, seconds, until, self._v6)
        return answer

    def _is_valid(self, lookups: Lookups, hot: Hot) -> bool:
        is_now = trio.current_time() < hot.until and hot.v6 is self._v6
        return is_now and lookups.decide(hot.query.host) == hot.verdict

    def _again(self, lookups: Lookups, hot: Hot, number: bytes, asked: float) -> bytes:
        """Returns a hot answer for a query with this id."""
        lookups.counts.queries += 1
        if hot.addresses:
            self._relay.publish_addresses(lookups.container, hot.query.host, hot.addresses, hot.seconds)
        answer = number + hot.answer
        lookups.observer.answered(hot.query, hot.verdict, answer, asked)
        return answer

    def _too_many(self, lookups: Lookups, query: Query) -> bytes:
        lookups.counts.over_budget += 1
        lookups.observer.over_budget(query)
        return reply(query, truncated=True)

    # ---- answers from upstream ----

    def _start(self, waiting: Waiting, then: Callable[[bytes], None] | None) -> None:
        """Asks upstream. The caller has acquired the query's place."""
        waiting.then = then
        query = waiting.query
        other = self._other(query)
        waiting.both = other is not None

        def come(answer: Answer | None) -> None:
            waiting.own = answer
            if waiting.both and answer is not None and answer.packed:
                self._upstream.later(SECOND_FAMILY, finish)
            else:
                self._finish(waiting)

        def other_come(answer: Answer | None) -> None:
            waiting.other = answer
            waiting.both = False
            if waiting.own is not None:
                self._finish(waiting)

        def finish() -> None:
            self._finish(waiting)

        if other is not None:
            if self._upstream.is_lacking(other):
                waiting.both = False
            else:
                self._upstream.ask(other, other_come)
        self._upstream.ask(folded(query.question), come)

    def _finish(self, waiting: Waiting) -> None:
        """Answers a query, once."""
        if waiting.is_done:
            return
        waiting.is_done = True
        lookups, query, own = waiting.lookups, waiting.query, waiting.own
        lookups.upstream.release()
        if waiting.then is None:
            return
        try:
            if own is None:
                lookups.counts.unanswered += 1
                answer = reply(query, SERVFAIL)
            else:
                answer, _, _ = self._pass(lookups, query, own, waiting.other, waiting.udp)
            lookups.observer.answered(query, waiting.verdict, answer, waiting.asked)
        except Exception as error:
            lookups.observer.failed(query, error)
            answer = reply(query, SERVFAIL)
        waiting.then(answer)

    def _other(self, query: Query) -> bytes | None:
        """Returns the question for the other family of the name's addresses; None if they aren't needed.

        The relay dials the other family too, whichever was requested. Without IPv6, only IPv4 can be dialled.
        """
        kind = OTHER_FAMILY.get(query.kind)
        if kind is None or not query.host or (kind == AAAA and not self._v6):
            return None
        return question_of(query.question[:-4].lower(), kind)

    def _pass(
        self, lookups: Lookups, query: Query, own: Answer, other: Answer | None, udp: bool
    ) -> tuple[bytes, bytes, float]:
        """Publishes the name's addresses of both families. Returns the answer, the addresses and their seconds."""
        now, wanted, seconds = trio.current_time(), b"", 0.0
        if own.packed and query.host:
            wanted = own.packed + (other.packed if other is not None else b"")
            if not self._v6:
                wanted = _v4_of(wanted)
            if wanted:
                seconds = max(own.lowest - (now - own.came), KEPT)
                self._relay.publish_addresses(lookups.container, query.host, wanted, seconds)
        return passed(query, own, now, v6=self._v6, udp=udp), wanted, seconds


def _v4_of(addresses: bytes) -> bytes:
    some = (addresses[at : at + 16] for at in range(0, len(addresses), 16))
    return b"".join(address for address in some if address.startswith(V4_MAPPED))


def _reversed(query: Query) -> Address | None:
    """Returns the address in a reverse lookup such as 1.0.18.198.in-addr.arpa. None for any other query."""
    if not query.question[:-4].lower().endswith(ARPA):
        return None
    try:
        return ipaddress.ip_address(dns.reversename.to_address(dns.name.Name((*query.labels, b""))))
    except (dns.exception.DNSException, ValueError):
        return None
