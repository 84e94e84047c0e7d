"""The resolvers that the host uses, asked for what no rule serves."""

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

from pyinterceptor.dns.answers import addresses
from pyinterceptor.errors import PolicyError
from pyinterceptor.paths import RESOLV_CONF
from pyinterceptor.policy.addresses import split_port

PORT = 53
TRY = 2.0  # seconds, one server once
ROUNDS = 2  # over all servers
SECOND_FAMILY = 1.0  # seconds that one family's addresses wait for the other's

Server = tuple[str, int]


class NoAnswer(Exception):
    """No server answered."""


@dataclass(slots=True)
class Addresses:
    """What a name resolves to, as text; `ttl` in seconds."""

    v4: list[str] = field(default_factory=list)
    v6: list[str] = field(default_factory=list)
    ttl: int = 86400

    def both(self) -> list[str]:
        """All, the families taking turns."""
        turns = chain.from_iterable(zip_longest(self.v6, self.v4))
        return [text for text in turns if text is not None]


@dataclass(slots=True)
class Flight:
    """A question that is out; whoever has the same one waits for its answer."""

    landed: trio.Event = field(default_factory=trio.Event)
    answer: dns.message.Message | None = None
    has_failed: bool = False


class Upstream:
    """`servers` as "address" or "address:port" / "[v6]:port"; None: those of /etc/resolv.conf, as it stands now."""

    def __init__(self, servers: Sequence[str] | None = None) -> None:
        self._servers = None if servers is None else [_server(text) for text in servers]
        self._flights: dict[tuple[dns.name.Name, int], Flight] = {}

    async def query(self, name: dns.name.Name, kind: int) -> dns.message.Message:
        """The answer, not to be changed: others who ask the same now get the same.

        A server that says neither yes nor no (SERVFAIL, REFUSED, …) is believed after the others have been asked.
        Raises: NoAnswer.
        """
        while flight := self._flights.get((name, kind)):
            await flight.landed.wait()
            if flight.answer is not None:
                return flight.answer
            if flight.has_failed:
                raise NoAnswer("no upstream resolver answers")
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
        """Both families of a name, asked at once; addresses stand for themselves, localhost for loopback (RFC 6761).

        When one family has addresses the other's are waited for a little, not to the end.
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
        raise NoAnswer("no upstream resolver answers")


async def _exchange(question: dns.message.Message, server: Server) -> dns.message.Message:
    """One server's answer; over TCP where UDP's was cut. What does not answer the question is not looked at."""
    family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    with trio.socket.socket(family, socket.SOCK_DGRAM) as sock:
        await sock.connect(server)  # so the kernel drops what others send, and tells when nobody listens
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
    """The host's; the host itself where resolv.conf(5) names none."""
    try:
        lines = RESOLV_CONF.read_text("ascii", "replace").splitlines()
    except OSError:
        lines = []
    found = []
    for words in map(str.split, lines):
        if words[:1] == ["nameserver"] and len(words) > 1:
            with contextlib.suppress(PolicyError):
                found.append(_server(words[1]))
    return found or [("127.0.0.1", PORT)]


def _server(text: str) -> Server:
    """Raises: PolicyError for what is no address."""
    try:
        host, port = split_port(text)
        return str(ipaddress.ip_address(host)), port or PORT
    except ValueError as error:
        raise PolicyError(f"nameserver {text!r} is not an address, with or without a port: {error}") from error
