"""The resolvers that the host uses, asked for what no rule serves. dnspython over Trio."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.resolver
import trio

from pyinterceptor.dns.answers import addresses
from pyinterceptor.errors import PolicyError

PORT = 53
TRY = 2.0  # seconds, one server once
ROUNDS = 2  # over all servers


class NoAnswer(Exception):
    """No server answered."""


@dataclass(slots=True)
class Addresses:
    """What a name resolves to, as text; `ttl` in seconds."""

    v4: list[str] = field(default_factory=list)
    v6: list[str] = field(default_factory=list)
    ttl: int = 60


class Upstream:
    """`servers` as "address" or "address:port" / "[v6]:port"; None: those of /etc/resolv.conf."""

    def __init__(self, servers: Sequence[str] | None = None) -> None:
        self._servers = [_server(text) for text in (_system() if servers is None else servers)]

    async def query(self, question: dns.message.Message) -> dns.message.Message:
        """The first answer; over TCP where UDP's was cut.

        Raises: NoAnswer.
        """
        for _ in range(ROUNDS):
            for address, port in self._servers:
                try:
                    with trio.fail_after(TRY * 2):
                        answer, _ = await dns.asyncquery.udp_with_fallback(question, address, TRY, port)
                except (dns.exception.DNSException, OSError, trio.TooSlowError, EOFError):
                    continue
                return answer
        raise NoAnswer("no upstream resolver answers")

    async def resolve(self, name: str) -> Addresses:
        """Both families of a name, asked at once; addresses stand for themselves, localhost for loopback (RFC 6761)."""
        literal = _literal(name)
        if literal is not None:
            return literal
        found = Addresses(ttl=86400)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask, name, dns.rdatatype.A, found)
            nursery.start_soon(self._ask, name, dns.rdatatype.AAAA, found)
        return found

    async def _ask(self, name: str, kind: dns.rdatatype.RdataType, found: Addresses) -> None:
        try:
            answer = await self.query(dns.message.make_query(name, kind))
        except (NoAnswer, dns.exception.DNSException):
            return
        texts, ttl = addresses(answer)
        if texts:
            (found.v4 if kind == dns.rdatatype.A else found.v6).extend(texts)
            found.ttl = min(found.ttl, ttl)


def _literal(name: str) -> Addresses | None:
    if name == "localhost" or name.endswith(".localhost"):
        return Addresses(["127.0.0.1"], ["::1"], 86400)
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return None
    return Addresses([name], [], 86400) if address.version == 4 else Addresses([], [name], 86400)


def _system() -> list[str]:
    try:
        resolver = dns.resolver.Resolver()
    except (dns.exception.DNSException, OSError):
        return []
    return [str(server) for server in resolver.nameservers]


def _server(text: str) -> tuple[str, int]:
    """Raises: PolicyError for what is no address."""
    host, port = text, ""
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        return str(ipaddress.ip_address(host)), int(port) if port else PORT
    except ValueError as error:
        raise PolicyError(f"nameserver {text!r} is not an address, with or without a port") from error
