"""Parses a container's DNS query. RFC 1035 section 4.1, RFC 6891, RFC 9619.

Pure. The parser is written by hand, because a question is only one name and two numbers. The name keeps its upper and
lower case, so that the answer can repeat it exactly. Compression pointers, which no question needs, are not followed.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from dns.rcode import BADVERS, FORMERR, NOERROR, NOTIMP, REFUSED, Rcode
from dns.rdataclass import IN
from dns.rdatatype import ANY, OPT

from pyinterceptor.errors import PeerError

QUERY_MAX = 4096  # bytes; a query with EDNS options is far shorter
NAME_MAX = 255  # bytes on the wire
LABEL_MAX = 63  # bytes
HEADER = 12  # bytes
RESPONSE, OPCODE = 0x8000, 0x7800  # flags
META = {0, OPT, *range(128, ANY)}  # types that stand for no records (RFC 6895 section 3.1)
HOST_LABEL = re.compile(rb"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?")


@dataclass(frozen=True, slots=True)
class Query:
    """A parsed query.

    `code` is NOERROR if the query can be answered; otherwise it is the error code for the answer. `question` holds the
    bytes of name, type and class; empty if they are malformed. `host` is the name in the form that rules compare; "" if
    it is no host name. `payload` is the size of an answer over UDP that EDNS permits, in bytes; 0 without EDNS.
    """

    id: int
    flags: int
    code: Rcode
    question: bytes = b""
    labels: tuple[bytes, ...] = ()
    host: str = ""
    kind: int = 0
    payload: int = 0


def read(wire: bytes) -> Query:
    """Parses a message. Raises PeerError if it can't even be answered with an error."""
    if len(wire) < HEADER:
        raise PeerError("a DNS message is shorter than its header")
    number, flags, questions, answers, authorities, additional = struct.unpack_from("!6H", wire)
    if flags & RESPONSE:
        raise PeerError("a DNS answer came instead of a query")
    if flags & OPCODE:
        return Query(number, flags, NOTIMP)
    name = _name(wire)
    if questions != 1 or answers or authorities or name is None:
        return Query(number, flags, FORMERR)
    labels, end = name
    kind, cls = struct.unpack_from("!2H", wire, end)
    payload, version = _edns(wire[end + 4 :]) if additional else (0, 0)
    code = BADVERS if version else REFUSED if cls != IN else NOTIMP if kind in META else NOERROR
    return Query(number, flags, code, wire[HEADER : end + 4], labels, _host(labels), kind, payload)


def _name(wire: bytes) -> tuple[tuple[bytes, ...], int] | None:
    """Returns the labels of the name after the header, and the offset of its end. None if the name is malformed, or no
    type and class follow it."""
    labels: list[bytes] = []
    at = HEADER
    while at + 4 < len(wire) and at - HEADER < NAME_MAX:
        length = wire[at]
        if length == 0:
            return tuple(labels), at + 1
        if length > LABEL_MAX:
            return None
        labels.append(wire[at + 1 : at + 1 + length])
        at += 1 + length
    return None


def _host(labels: tuple[bytes, ...]) -> str:
    folded = [label.lower() for label in labels]
    if not folded or folded[-1].isdigit() or not all(map(HOST_LABEL.fullmatch, folded)):
        return ""
    return b".".join(folded).decode("ascii")


def _edns(record: bytes) -> tuple[int, int]:
    """Returns payload size and version of an OPT record, and zeros for any other record. RFC 6891 section 6.1."""
    if len(record) < 11 or record[:3] != b"\0\0\x29":
        return 0, 0
    return max(int.from_bytes(record[3:5], "big"), 512), record[6]
