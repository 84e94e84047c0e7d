"""Parses a container's DNS query. RFC 1035 section 4.1, RFC 6891, RFC 9619.

Pure. The question keeps its upper and lower case, so that the answer can repeat it exactly. Compression pointers, which
no question needs, are not followed.
"""

from __future__ import annotations

from typing import NamedTuple

from pyinterceptor._relay import ffi, lib
from pyinterceptor.errors import PeerError

QUERY_MAX = int(lib.DATAGRAM_MAX)  # bytes; a query with EDNS options is far shorter
HEADER = int(lib.MESSAGE_HEADER)  # bytes

_read = ffi.new("struct question *")


class Query(NamedTuple):
    """A parsed query.

    `code` is NOERROR if the query can be answered; otherwise it is the error code for the answer. `question` holds the
    bytes of name, type and class; empty if they are malformed. `host` is the name in the form that rules compare; "" if
    it is no host name. `payload` is the size of an answer over UDP that EDNS permits, in bytes; 0 without EDNS.
    """

    id: int
    flags: int
    code: int
    question: bytes = b""
    host: str = ""
    kind: int = 0
    payload: int = 0

    @property
    def labels(self) -> tuple[bytes, ...]:
        """The labels of the name."""
        labels, at = [], 0
        while at < len(self.question) and (length := self.question[at]):
            labels.append(self.question[at + 1 : at + 1 + length])
            at += 1 + length
        return tuple(labels)


def read(wire: bytes) -> Query:
    """Parses a message. Raises PeerError if it can't even be answered with an error."""
    if not lib.question_read(wire, len(wire), _read):
        raise PeerError("a DNS message is shorter than its header, or an answer instead of a query")
    question = wire[HEADER : HEADER + _read.length]
    host = ffi.string(_read.host).decode("ascii")
    return Query(_read.id, _read.flags, _read.code, question, host, _read.kind, _read.payload)


def question_of(name: bytes, kind: int) -> bytes:
    """Returns the bytes of a question. `name` is in wire format."""
    return name + kind.to_bytes(2, "big") + b"\0\1"
