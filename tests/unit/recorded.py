"""Records for the tests of the modules that handle them."""

from __future__ import annotations

import ipaddress

from pyinterceptor.relay.records import Cause
from pyinterceptor.serving.records import (
    FlowRecord,
    NameRecord,
    Owner,
    Protocol,
    Reason,
    RefusalRecord,
    Refused,
    RequestRecord,
    Verdict,
)

ONE = Owner("Sandbox", "one", "1" * 64)
TWO = Owner("Sandbox", "two", "2" * 64)
DESTINATION = (ipaddress.IPv4Address("203.0.113.7"), 443)


def flow(owner: Owner = ONE, number: int = 1, host: str = "a.example", verdict: Verdict = Verdict.SPLICE) -> FlowRecord:
    return FlowRecord(
        container=owner,
        flow=number,
        protocol=Protocol.TLS,
        host=host,
        client=(ipaddress.IPv4Address("100.64.0.2"), 40000),
        destination=DESTINATION,
        verdict=verdict,
        rule="",
        generation=1,
        cause=Cause.DONE,
        sent=517,
        received=2048,
        began=1_700_000_000.0,
        judged=0.001,
        connected=0.02,
        ended=0.25,
    )


def request(owner: Owner = ONE, url: str = "http://my.kv/a", verdict: Verdict = Verdict.HANDLE) -> RequestRecord:
    return RequestRecord(
        container=owner,
        flow=1,
        method="GET",
        url=url,
        status=200,
        destination=DESTINATION,
        verdict=verdict,
        rule="my.kv",
        generation=1,
        sent=70,
        received=120,
        began=1_700_000_000.0,
        answered=0.001,
        ended=0.002,
    )


def refusal(
    owner: Owner = ONE,
    host: str = "a.example",
    refused: Refused = Refused.TLS,
    reason: Reason = Reason.RULE,
) -> RefusalRecord:
    return RefusalRecord(
        container=owner,
        refused=refused,
        reason=reason,
        host=host,
        destination=None if refused is Refused.NAME else DESTINATION,
        kind="A" if refused is Refused.NAME else "GET" if refused is Refused.REQUEST else "",
        url=f"http://{host}/" if refused is Refused.REQUEST else "",
        rule="",
        generation=1,
        began=1_700_000_000.0,
    )


def name(owner: Owner = ONE, host: str = "a.example") -> NameRecord:
    return NameRecord(
        container=owner,
        name=host,
        kind="AAAA",
        code="NOERROR",
        verdict=Verdict.SPLICE,
        rule="",
        generation=1,
        began=1_700_000_000.0,
        ended=0.03,
    )
