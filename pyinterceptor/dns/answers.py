"""Encodes our own answers to a container. Pure. RFC 1035, RFC 6891."""

from __future__ import annotations

from dns.rcode import NOERROR

from pyinterceptor._relay import ffi, lib
from pyinterceptor.dns.query import Query

TTL = 60  # seconds; of a synthetic answer

_written = ffi.new("uint8_t[]", lib.REPLY_MAX)


def reply(query: Query, code: int = NOERROR, record: bytes | None = None) -> bytes:
    """Returns our own answer, with one record of the type in the question, or none."""
    asked = ffi.new("struct question *")
    asked.id, asked.flags, asked.kind = query.id, query.flags, query.kind
    asked.payload, asked.length = query.payload, len(query.question)
    data = ffi.NULL if record is None else ffi.from_buffer("uint8_t[]", record)
    said = ffi.new("struct reply *", (code, 0, TTL, 0 if record is None else len(record), data))
    size = lib.reply_write(asked, query.question, said, _written)
    return bytes(ffi.buffer(_written, size))
