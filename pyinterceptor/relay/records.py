"""Records of the relay: flows that C kept to their end, refusals, and requests of followed flows.

Pure: bytes in, records out. The layout of a record is read from the C struct.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum, IntFlag
from typing import Any, NamedTuple

from pyinterceptor._relay import ffi, lib
from pyinterceptor.policy.addresses import Address, unpacked


class Kind(IntFlag):
    """`enum record_kind` of cext/records.h."""

    NONE = 0
    FLOW = lib.RECORD_FLOW
    REFUSAL = lib.RECORD_REFUSAL
    REQUEST = lib.RECORD_REQUEST


class Cause(IntEnum):
    """The cause of a flow's end: `enum end_cause` of cext/relay.h."""

    DONE = lib.END_DONE
    RESET = lib.END_RESET
    REFUSED = lib.END_REFUSED
    DIAL_FAILED = lib.END_DIAL_FAILED
    DIAL_GUARD = lib.END_DIAL_GUARD
    OPENING_DEADLINE = lib.END_OPENING_DEADLINE
    IDLE_DEADLINE = lib.END_IDLE_DEADLINE
    BUDGET = lib.END_BUDGET
    DETACHED = lib.END_DETACHED
    NAME_UNKNOWN = lib.END_NAME_UNKNOWN
    NO_RESOURCES = lib.END_NO_RESOURCES


class Record(NamedTuple):
    """`struct relay_record` of cext/records.h. Times are seconds of CLOCK_MONOTONIC; 0.0 means never.

    `host` and `request_target` hold the client's own bytes as Latin-1: quote them before they are printed.
    """

    kind: Kind
    container: int
    flow: int
    protocol: int
    cause: Cause
    verdict: int
    rule: int
    generation: int
    stage: int
    target: int
    reason: int
    matched: int
    status: int
    client: tuple[Address, int]
    destination: tuple[Address, int]
    sent: int
    received: int
    began: float
    judged: float
    connected: float
    answered: float
    ended: float
    method: str
    host: str
    request_target: str


# In the order of the struct.
_MEMBERS = (
    *("kind", "container", "flow", "protocol", "cause"),
    *("decision.verdict", "decision.rule", "decision.generation"),
    *("decision.stage", "decision.target", "decision.reason", "decision.matched"),
    *("status", "client.address", "client.port", "destination.address", "destination.port", "sent", "received"),
    *("began", "judged", "connected", "answered", "ended", "method", "host", "target"),
)
_CODES = {"uint16_t": "H", "uint32_t": "I", "uint64_t": "Q", "double": "d"}


def parse(batch: Any, count: int) -> list[Record]:
    """Reads the first `count` records of a `struct relay_record[]`."""
    return [_record(*values) for values in _LAYOUT.iter_unpack(ffi.buffer(batch, count * _LAYOUT.size))]


def _record(kind: int, container: int, flow: int, protocol: int, cause: int, *rest: Any) -> Record:
    *decision, status, client, client_port, destination, port = rest[:12]
    *numbers, method, host, target = rest[12:]
    ends = (unpacked(client), client_port), (unpacked(destination), port)
    texts = map(_text, (method, host, target))
    return Record._make(
        (Kind(kind), container, flow, protocol, Cause(cause), *decision, status, *ends, *numbers, *texts)
    )


def _text(padded: bytes) -> str:
    return padded[: padded.index(0)].decode("latin-1")


def _layout(members: Sequence[str]) -> struct.Struct:
    """Returns a Struct that unpacks these members of a `struct relay_record` and skips the others."""
    form, at = "=", 0
    for member in members:
        offset, ctype = _place(member)
        form += f"{offset - at}x{_code(ctype)}"
        at = offset + ffi.sizeof(ctype)
    return struct.Struct(f"{form}{ffi.sizeof('struct relay_record') - at}x")


def _place(member: str) -> tuple[int, Any]:
    """Returns offset and type of a member."""
    offset, ctype = 0, ffi.typeof("struct relay_record")
    for name in member.split("."):
        field = dict(ctype.fields)[name]
        offset, ctype = offset + field.offset, field.type
    return offset, ctype


def _code(ctype: Any) -> str:
    return f"{ctype.length}s" if ctype.kind == "array" else _CODES[ctype.cname]


_LAYOUT = _layout(_MEMBERS)
