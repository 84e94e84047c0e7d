"""The host's resolvers, which are asked for names that no rule serves."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import trio
from dns.rcode import NOERROR, NXDOMAIN
from dns.rdatatype import AAAA, A, RdataType

from pyinterceptor._relay import lib
from pyinterceptor.dns.answers import addresses
from pyinterceptor.errors import PolicyError
from pyinterceptor.paths import RESOLV_CONF
from pyinterceptor.policy.addresses import split_port

TRY = 2.0  # seconds for one query to one server
ROUNDS = 2  # over all servers
SECOND_FAMILY = 1.0  # seconds to wait for the other family, once one family has addresses

Server = tuple[str, int]


class NoAnswer(Exception):
    """No upstream server answered."""


@dataclass(slots=True)
class Addresses:
    """The addresses of a name, as text. `ttl` is in seconds."""

    v4: list[str] = field(default_factory=list)
    v6: list[str] = field(default_factory=list)
    ttl: int = 86400

    def both(self) -> list[str]:
        """Returns all addresses, with the families alternating, IPv6 first."""
        turns = chain.from_iterable(zip_longest(self.v6, self.v4))
        return [text for text in turns if text is not None]


@dataclass(slots=True)
class Flight:
    """A query in progress. Callers with the same question wait for its answer."""

    landed: trio.Event = field(default_factory=trio.Event)
    answer: dns.message.Message | None = None
    has_failed: bool = False


class Upstream:
    """Resolves names with the upstream servers.

    `servers` are "address", "address:port" or "[v6]:port". None means the servers in /etc/resolv.conf, which is read
    for each query.
    """

    def __init__(self, servers: Sequence[str] | None = None) -> None:
        self._servers = None if servers is None else [_server(text) for text in servers]
        self._flights: dict[tuple[dns.name.Name, int], Flight] = {}

    async def query(self, name: dns.name.Name, kind: int) -> dns.message.Message:
        """Returns the answer. The caller must not change it: concurrent callers with the same question share it.

        An error of a server (SERVFAIL, REFUSED, …) is returned only if no other server has a better answer.
        Raises NoAnswer.
        """
        while flight := self._flights.get((name, kind)):
            await flight.landed.wait()
            if flight.answer is not None:
                return flight.answer
            if flight.has_failed:
                raise NoAnswer("no upstream server answers")
        flight = self._flights[name, kind] = Flight()
        try:
            flight.answer = await self._ask_all(dns.message.make_query(name, RdataType.make(kind)))
            return flight.answer
        except NoAnswer:
            flight.has_failed = True
            raise
        finally:
            del self._flights[name, kind]
            flight.landed.set()

    async def resolve(self, name: str) -> Addresses:
        """Returns the addresses of a name; none if it can't be resolved.

        Both families are queried at once. Once one has addresses, the other is awaited for only SECOND_FAMILY more. An
        address resolves to itself, and localhost to the loopback addresses (RFC 6761).
        """
        literal = _literal(name)
        if literal is not None:
            return literal
        found = Addresses()
        try:
            asked = dns.name.from_text(name)
        except dns.exception.DNSException:
            return found
        async with trio.open_nursery() as nursery:

            async def ask(kind: int, texts: list[str]) -> None:
                with contextlib.suppress(NoAnswer):
                    texts[:], ttl = addresses(await self.query(asked, kind))
                    if texts:
                        found.ttl = min(found.ttl, ttl)
                        nursery.cancel_scope.deadline = trio.current_time() + SECOND_FAMILY

            nursery.start_soon(ask, A, found.v4)
            nursery.start_soon(ask, AAAA, found.v6)
        return found

    async def _ask_all(self, question: dns.message.Message) -> dns.message.Message:
        for _ in range(ROUNDS):
            unsure = None
            for server in _system() if self._servers is None else self._servers:
                try:
                    with trio.fail_after(TRY):
                        answer = await _exchange(question, server)
                except (dns.exception.DNSException, OSError, trio.TooSlowError, trio.BrokenResourceError, EOFError):
                    continue
                if answer.rcode() in (NOERROR, NXDOMAIN):
                    return answer
                unsure = answer
            if unsure is not None:
                return unsure
        raise NoAnswer("no upstream server answers")


async def _exchange(question: dns.message.Message, server: Server) -> dns.message.Message:
    """Returns one server's answer: over UDP, or over TCP if that one was truncated. Messages that don't answer the
    question are ignored."""
    family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    with trio.socket.socket(family, socket.SOCK_DGRAM) as sock:
        await sock.connect(server)  # so that the kernel drops datagrams of others, and reports a closed port
        await sock.send(question.to_wire())
        while True:
            answer = _parsed(await sock.recv(65535))
            if answer is not None and question.is_response(answer):
                break
    if answer.flags & dns.flags.TC:
        return await dns.asyncquery.tcp(question, server[0], TRY, server[1], ignore_trailing=True)
    return answer


def _parsed(wire: bytes) -> dns.message.Message | None:
    try:
        return dns.message.from_wire(wire, ignore_trailing=True)
    except dns.exception.DNSException:
        return None


def _literal(name: str) -> Addresses | None:
    if name == "localhost" or name.endswith(".localhost"):
        return Addresses(["127.0.0.1"], ["::1"])
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return None
    return Addresses([name], []) if address.version == 4 else Addresses([], [name])


def _system() -> list[Server]:
    """Returns the host's servers, or the host itself if resolv.conf(5) names none."""
    try:
        lines = RESOLV_CONF.read_text("ascii", "replace").splitlines()
    except OSError:
        lines = []
    found = []
    for words in map(str.split, lines):
        if words[:1] == ["nameserver"] and len(words) > 1:
            with contextlib.suppress(PolicyError):
                found.append(_server(words[1]))
    return found or [("127.0.0.1", lib.DNS_PORT)]


def _server(text: str) -> Server:
    """Parses a server's address. Raises PolicyError if it is invalid."""
    try:
        host, port = split_port(text)
        return str(ipaddress.ip_address(host)), port or lib.DNS_PORT
    except ValueError as error:
        raise PolicyError(f"nameserver {text!r} must be an address, with or without a port: {error}") from error
