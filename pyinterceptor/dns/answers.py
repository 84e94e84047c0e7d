"""Encodes the answers to a container: our own, and those from upstream. Pure. RFC 1035, RFC 6891."""

from __future__ import annotations

import struct

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rrset
from dns.rcode import NOERROR, Rcode
from dns.rdataclass import IN
from dns.rdatatype import AAAA, HTTPS, OPT, SVCB, A, RdataType

from pyinterceptor.dns.query import OPCODE, QUERY_MAX, Query

TTL = 60  # seconds; of a synthetic answer
UDP_MAX = 1232  # bytes, even if EDNS permits more: a longer datagram could be fragmented
PLAIN_UDP = 512  # bytes, without EDNS
OURS = int(dns.flags.QR | dns.flags.RA)
FROM_QUESTION = OPCODE | int(dns.flags.RD | dns.flags.CD)
NAME_OF_QUESTION = 0xC000 | 12  # a compression pointer to the question's name


def reply(query: Query, code: Rcode = NOERROR, record: bytes | None = None) -> bytes:
    """Returns our own answer, with one record of the type in the question, or none."""
    flags = OURS | query.flags & FROM_QUESTION | code & 0xF
    counts = (bool(query.question), record is not None, 0, query.payload > 0)
    parts = [struct.pack("!6H", query.id, flags, *counts), query.question]
    if record is not None:
        parts += [struct.pack("!3HIH", NAME_OF_QUESTION, query.kind, IN, TTL, len(record)), record]
    if query.payload:
        parts.append(struct.pack("!BHHBBHH", 0, OPT, QUERY_MAX, code >> 4, 0, 0, 0))
    return b"".join(parts)


def passed(query: Query, response: dns.message.Message, *, v6: bool, udp: bool) -> bytes:
    """Returns upstream's answer to the same question. If it is too long for UDP, it has no records, and TC is set.

    Without `v6`, its AAAA records are left out, and also HTTPS and SVCB records, because their hints contain addresses.
    """
    made = dns.message.QueryMessage(query.id)
    made.flags = dns.flags.Flag(OURS | query.flags & FROM_QUESTION | response.rcode() & 0xF)
    made.question = [dns.rrset.RRset(dns.name.Name((*query.labels, b"")), IN, RdataType.make(query.kind))]
    gone = set() if v6 else {AAAA, HTTPS, SVCB}
    made.answer = [records for records in response.answer if records.rdtype not in gone]
    made.authority = response.authority
    if query.payload:
        made.use_edns(0, 0, QUERY_MAX)
    try:
        return made.to_wire(max_size=min(max(query.payload, PLAIN_UDP), UDP_MAX) if udp else 65535)
    except dns.exception.TooBig:
        made.flags |= dns.flags.TC
        made.answer, made.authority = [], []
        return made.to_wire()


def addresses(response: dns.message.Message) -> tuple[list[str], int]:
    """Returns the addresses of all A and AAAA records, and the shortest TTL in the answer, in seconds, at most a day.

    The CNAME records that lead to the addresses are not checked.
    """
    found, ttl = [], 86400
    for records in response.answer:
        ttl = min(ttl, records.ttl)
        if records.rdtype in (A, AAAA):
            found += [record.address for record in records]
    return found, ttl
