"""Frozen records: one for each flow that ended, each request, each refusal and each DNS question.

Pure. Two clocks: `began` is wall-clock time, in seconds since 1970 (`time.time()`); every other time is in seconds
after `began`, by the monotonic clock, and None for a step that did not happen. Sizes are bytes.
Hosts, names, methods and URLs are as the container sent them: they may hold control characters.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

from pyinterceptor._relay import lib
from pyinterceptor.policy.addresses import Address
from pyinterceptor.relay.records import Cause

Endpoint = tuple[Address, int]


class Verdict(IntEnum):
    """The answer of a policy."""

    REFUSE = lib.VERDICT_REFUSE
    SPLICE = lib.VERDICT_SPLICE
    HANDLE = lib.VERDICT_HANDLE


class Protocol(IntEnum):
    """The protocol of a flow's first bytes."""

    UNDECIDED = lib.PROTOCOL_NONE
    HTTP = lib.PROTOCOL_HTTP
    TLS = lib.PROTOCOL_TLS
    HTTP2 = lib.PROTOCOL_HTTP2
    OPAQUE = lib.PROTOCOL_OPAQUE


class Refused(StrEnum):
    """The thing that was refused."""

    NAME = "name"
    REQUEST = "request"
    TLS = "TLS"
    FLOW = "flow"


class Reason(StrEnum):
    """The reason of a refusal."""

    RULE = "rule"  # a rule, or the absence of one
    LOCAL = "local address"  # the dial guard
    BUDGET = "budget"
    MALFORMED = "malformed request"  # or one whose head came too slowly
    METHOD = "method"  # CONNECT and TRACE are not for handlers
    DEADLINE = "opening deadline"  # the client's first bytes, which decide, did not come in time


# The causes that end a flow in C with a refusal. Such a flow has a refusal's record beside its own.
REFUSALS = {
    Cause.REFUSED: Reason.RULE,
    Cause.DIAL_GUARD: Reason.LOCAL,
    Cause.BUDGET: Reason.BUDGET,
    Cause.OPENING_DEADLINE: Reason.DEADLINE,
}


@dataclass(frozen=True, slots=True)
class Owner:
    """The container of a record; `id` is 64 hex digits made from class and name."""

    class_name: str
    name: str
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowRecord:
    """A captured connection that ended.

    `rule` is the name of the rule that decided, in the policy of `generation`; "" if no rule matched. `sent` is from
    the container, `received` to it.
    """

    container: Owner
    flow: int
    protocol: Protocol
    host: str
    client: Endpoint
    destination: Endpoint
    verdict: Verdict
    rule: str
    generation: int
    cause: Cause
    sent: int
    received: int
    began: float
    judged: float | None
    connected: float | None
    ended: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """An HTTP request that ended: handled here, passed on, followed through a splice, or refused.

    `status` is 0 if no response was sent. `sent` and `received` count the bytes of the request and of its response.
    `answered` is the time of the response's head. The other fields are as in `FlowRecord`.
    """

    container: Owner
    flow: int
    method: str
    url: str
    status: int
    destination: Endpoint
    verdict: Verdict
    rule: str
    generation: int
    sent: int
    received: int
    began: float
    answered: float | None
    ended: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalRecord:
    """A refusal, published when it happens; the flow or request that it ends has a record of its own later.

    `host` is the name that was asked for, "" if the container named none. `destination` is None for a DNS name.
    `kind` is a name's DNS type or a request's method, `url` a request's; else they are "".
    """

    container: Owner
    refused: Refused
    reason: Reason
    host: str
    destination: Endpoint | None
    kind: str
    url: str
    rule: str
    generation: int
    began: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NameRecord:
    """A DNS question that was answered. `code` is the answer's, as text: NOERROR, NXDOMAIN, SERVFAIL.

    `verdict` is the policy's for a request to that name; `kind` is the DNS type as text.
    """

    container: Owner
    name: str
    kind: str
    code: str
    verdict: Verdict
    rule: str
    generation: int
    began: float
    ended: float


Record = FlowRecord | RequestRecord | RefusalRecord | NameRecord
RECORDS: tuple[type[Record], ...] = (FlowRecord, RequestRecord, RefusalRecord, NameRecord)
