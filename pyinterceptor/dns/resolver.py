"""Answers the containers' queries: by the container's policy, synthetic, upstream, or not at all.

What an answer says is published to the relay first, so that a connection to it finds its name there.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from typing import Protocol

import dns.message
import dns.rcode
import trio

from pyinterceptor._relay import lib
from pyinterceptor.dns import answers
from pyinterceptor.dns.names import Names, NamesFull
from pyinterceptor.dns.upstream import NoAnswer, Upstream
from pyinterceptor.errors import PeerError
from pyinterceptor.policy.addresses import Address

QUERIES = 64  # in flight, a container
KEPT = 300.0  # seconds at least that the relay remembers whose an address was: clients keep answers longer than told


class Publisher(Protocol):
    """What the resolver needs of the relay."""

    def publish_name(
        self,
        container: int,
        name: str,
        synthetic: tuple[Address, Address] | None,
        addresses: Sequence[Address],
        seconds: float,
    ) -> bool: ...

    def name_failed(self, container: int, name: str) -> None: ...


class Resolver:
    """`decide(container, host)` gives the verdict of an HTTP request for the host, None for no container."""

    def __init__(
        self, *, decide: Callable[[int, str], int | None], upstream: Upstream, relay: Publisher, v6: bool
    ) -> None:
        self._decide = decide
        self._upstream = upstream
        self._relay = relay
        self._v6 = v6
        self._names: dict[int, Names] = {}
        self._running: dict[int, int] = {}

    async def answer(self, container: int, wire: bytes, udp: bool) -> bytes | None:
        """The bytes to answer with, None where there is nothing to say to this."""
        try:
            query = answers.read(wire)
        except PeerError:
            return None
        running = self._running.get(container, 0)
        if running >= QUERIES:
            return answers.wire(answers.refusal(query, dns.rcode.SERVFAIL), query, udp=udp)
        self._running[container] = running + 1
        try:
            return answers.wire(await self._response(container, query), query, udp=udp)
        finally:
            self._running[container] -= 1

    async def refresh(self, container: int, name: str) -> None:
        """A flow waits to dial this name: resolves it and tells the relay."""
        found = await self._upstream.resolve(name)
        texts = found.v4 + (found.v6 if self._v6 else [])
        if texts:
            self._relay.publish_name(container, name, None, _parsed(texts), max(found.ttl, 1))
        else:
            self._relay.name_failed(container, name)

    def set_ipv6(self, v6: bool) -> None:
        """Whether the host has a way to IPv6 addresses: without one there are no AAAA answers."""
        self._v6 = v6

    def forget(self, container: int) -> None:
        """The container is gone."""
        self._names.pop(container, None)
        self._running.pop(container, None)

    async def _response(self, container: int, query: dns.message.Message) -> dns.message.Message:
        if not answers.is_plain(query):
            return answers.refusal(query, dns.rcode.NOTIMP)
        host = answers.host_of(query)
        match self._decide(container, host):
            case lib.VERDICT_HANDLE:
                return self._synthetic(container, query, host)
            case lib.VERDICT_SPLICE:
                return await self._ask(container, query, host)
            case _:
                return answers.refusal(query, dns.rcode.NXDOMAIN)

    def _synthetic(self, container: int, query: dns.message.Message, host: str) -> dns.message.Message:
        try:
            pair = self._names.setdefault(container, Names()).pair(host, trio.current_time())
        except NamesFull:
            return answers.refusal(query, dns.rcode.SERVFAIL)
        if not self._relay.publish_name(container, host, (pair.v4, pair.v6), (), 0):
            return answers.refusal(query, dns.rcode.SERVFAIL)
        return answers.synthetic(query, pair.v4, pair.v6 if self._v6 else None)

    async def _ask(self, container: int, query: dns.message.Message, host: str) -> dns.message.Message:
        """Upstream's answer, as it came but for the id. Both families are published, whichever was asked for."""
        try:
            response = await self._upstream.query(dns.message.make_query(host, query.question[0].rdtype))
        except (NoAnswer, dns.exception.DNSException):
            return answers.refusal(query, dns.rcode.SERVFAIL)
        if not self._v6:
            answers.without_v6(response)
        made = dns.message.make_response(query, recursion_available=True)
        made.set_rcode(response.rcode())
        made.answer, made.authority = response.answer, response.authority
        if answers.addresses(response)[0]:
            found = await self._upstream.resolve(host)
            texts = found.v4 + (found.v6 if self._v6 else [])
            texts += [text for text in answers.addresses(response)[0] if text not in texts]
            self._relay.publish_name(container, host, None, _parsed(texts), max(found.ttl, KEPT))
        return made


def _parsed(texts: Sequence[str]) -> list[Address]:
    return [ipaddress.ip_address(text) for text in texts]
