"""DNS messages of our own: what is read from a container, and what it is told. Pure. RFC 1035, RFC 6891."""

from __future__ import annotations

import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from pyinterceptor.errors import PeerError
from pyinterceptor.policy.addresses import Address

TTL = 60  # seconds, of a synthetic answer
UDP_MAX = 1232  # bytes, whatever EDNS says: no fragments


def read(wire: bytes) -> dns.message.Message:
    """A query with one question.

    Raises: PeerError for what is none (there is nobody to answer, or nothing to say).
    """
    try:
        query = dns.message.from_wire(wire, ignore_trailing=False)
    except (dns.exception.DNSException, ValueError) as error:
        raise PeerError(f"not a DNS message: {error}") from error
    if query.flags & dns.flags.QR:
        raise PeerError("a DNS answer where a query was due")
    return query


def is_plain(query: dns.message.Message) -> bool:
    """One question of the internet class, an ordinary query."""
    return (
        query.opcode() == dns.opcode.QUERY
        and len(query.question) == 1
        and query.question[0].rdclass == dns.rdataclass.IN
    )


def host_of(query: dns.message.Message) -> str:
    """The name that is asked for, as rules compare it."""
    return query.question[0].name.to_text(omit_final_dot=True).lower()


def refusal(query: dns.message.Message, code: dns.rcode.Rcode) -> dns.message.Message:
    """An answer that has nothing but its code."""
    response = dns.message.make_response(query, recursion_available=True)
    response.set_rcode(code)
    return response


def synthetic(query: dns.message.Message, v4: Address, v6: Address | None) -> dns.message.Message:
    """The pair for A and AAAA, nothing (no error) for other types and for AAAA where `v6` is None."""
    response = dns.message.make_response(query, recursion_available=True)
    question = query.question[0]
    wanted = {dns.rdatatype.A: v4, dns.rdatatype.AAAA: v6}.get(question.rdtype)
    if wanted is not None:
        response.answer.append(dns.rrset.from_text(question.name, TTL, "IN", question.rdtype, str(wanted)))
    return response


def without_v6(response: dns.message.Message) -> dns.message.Message:
    """Less its AAAA records, and HTTPS and SVCB ones, whose hints name addresses: the host has no route to them."""
    gone = {dns.rdatatype.AAAA, dns.rdatatype.HTTPS, dns.rdatatype.SVCB}
    response.answer = [rrset for rrset in response.answer if rrset.rdtype not in gone]
    response.additional = [rrset for rrset in response.additional if rrset.rdtype not in gone]
    return response


def addresses(response: dns.message.Message) -> tuple[list[str], int]:
    """The A and AAAA records' addresses, whatever CNAMEs lead there, and the shortest TTL in seconds."""
    found, ttl = [], 86400
    for rrset in response.answer:
        ttl = min(ttl, rrset.ttl)
        if rrset.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
            found += [record.address for record in rrset]
    return found, ttl


def wire(response: dns.message.Message, query: dns.message.Message, *, udp: bool) -> bytes:
    """The bytes to send; over UDP cut down to what fits, with TC set."""
    if not udp:
        return response.to_wire(max_size=65535)
    size = min(max(query.payload, 512), UDP_MAX)
    try:
        return response.to_wire(max_size=size)
    except dns.exception.TooBig:
        short = dns.message.make_response(query, recursion_available=True)
        short.flags |= dns.flags.TC
        return short.to_wire(max_size=size)
