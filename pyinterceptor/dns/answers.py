"""Reads upstream's answers, and encodes the answers to a container: our own, and those from upstream.

Pure; the caller passes the time. RFC 1035, RFC 2308, RFC 6891.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from dns.rcode import NOERROR
from dns.rdataclass import IN
from dns.rdatatype import OPT

from pyinterceptor._relay import ffi, lib
from pyinterceptor.dns.query import OPCODE, QUERY_MAX, Query

TTL = 60  # seconds; of a synthetic answer
UDP_MAX = 1232  # bytes, even if EDNS permits more: a longer datagram could be fragmented
PLAIN_UDP = 512  # bytes, without EDNS
RESPONSE, TRUNCATED, DESIRED, AVAILABLE, UNCHECKED = 0x8000, 0x0200, 0x0100, 0x0080, 0x0010  # QR TC RD RA CD
OURS = RESPONSE | AVAILABLE
FROM_QUESTION = OPCODE | DESIRED | UNCHECKED
NAME_OF_QUESTION = 0xC000 | 12  # a compression pointer to the question's name

_read = ffi.new("struct answer *")
_to = ffi.new("struct passing_on *")
_written = ffi.new("uint8_t[]", lib.MESSAGE_MAX)


class Answer(NamedTuple):
    """Upstream's answer to one question.

    `packed` holds its addresses, 16 bytes each, v4 as v4-mapped: at most ANSWER_ADDRESSES_MAX. `ttl` is the number of
    seconds for which it may be kept, 0 if it may not; `lowest` the lowest TTL among its records. `came` is the time at
    which it came. `is_cut`: TC is set.
    """

    wire: bytes
    came: float
    code: int
    ttl: int
    lowest: int
    packed: bytes
    is_cut: bool
    has_edns: bool


def read_answer(wire: bytes, number: int, question: bytes, now: float) -> Answer | None:
    """Returns the answer to the question that was asked with the id `number`; None if it is malformed or another's.

    The CNAME records that lead to its addresses are not checked.
    """
    if not lib.answer_read(wire, len(wire), number, question, len(question), _read):
        return None
    count = _read.count
    packed = ffi.buffer(_read.addresses)[: 16 * count] if count else b""
    return Answer(
        wire, now, _read.code, _read.ttl, _read.lowest, packed, bool(_read.is_cut), bool(_read.has_edns)
    )


def reply(query: Query, code: int = NOERROR, record: bytes | None = None, *, truncated: bool = False) -> bytes:
    """Returns our own answer, with one record of the type in the question, or none.

    `truncated`: the client shall repeat its question over TCP.
    """
    flags = OURS | query.flags & FROM_QUESTION | code & 0xF | (TRUNCATED if truncated else 0)
    counts = (bool(query.question), record is not None, 0, query.payload > 0)
    parts = [struct.pack("!6H", query.id, flags, *counts), query.question]
    if record is not None:
        parts += [struct.pack("!3HIH", NAME_OF_QUESTION, query.kind, IN, TTL, len(record)), record]
    if query.payload:
        parts.append(struct.pack("!BHHBBHH", 0, OPT, QUERY_MAX, code >> 4, 0, 0, 0))
    return b"".join(parts)


def passed(query: Query, answer: Answer, now: float, *, v6: bool, udp: bool) -> bytes:
    """Returns upstream's answer to the same question, its TTLs lowered by its age.

    If it is too long for UDP, it has the records that fit, and TC is set. Without `v6`, its AAAA records are left out,
    and also HTTPS and SVCB records, because their hints contain addresses.
    """
    _to.id = query.id
    _to.flags = OURS | query.flags & FROM_QUESTION
    _to.is_edns = query.payload > 0
    _to.payload = QUERY_MAX
    _to.has_v6 = v6
    _to.limit = min(max(query.payload, PLAIN_UDP), UDP_MAX) if udp else lib.MESSAGE_MAX
    _to.age = int(now - answer.came)
    question = query.question
    size = lib.answer_write(answer.wire, len(answer.wire), question, len(question), _to, _written)
    return bytes(ffi.buffer(_written, size))
