"""Formats a record as one line.

Pure. Text from a container is shown as it is if it is plain, and else quoted with escapes: it can neither forge a line
nor control a terminal.
"""

from __future__ import annotations

import re
from typing import assert_never

from pyinterceptor.relay.records import Cause
from pyinterceptor.serving.records import (
    REFUSALS,
    Endpoint,
    FlowRecord,
    NameRecord,
    Owner,
    Record,
    RefusalRecord,
    RequestRecord,
    Verdict,
)

REPORTED = {Cause.DONE, Cause.RESET, *REFUSALS}  # causes with which a refused flow ends that has a refusal's line
SHOWN = 300  # characters of one text from a container

HOST = re.compile(r"[A-Za-z0-9_*:\[][A-Za-z0-9._*:\[\]-]*")
PLAIN = re.compile(r"[!#-\[\]-~]+")  # printable ASCII but space, double quote and backslash


def line_of(record: Record) -> str | None:
    """Returns the line without its container; None if a refusal's line reports the same."""
    match record:
        case RequestRecord(verdict=Verdict.REFUSE):
            return None
        case FlowRecord(verdict=Verdict.REFUSE, cause=cause) if cause in REPORTED:
            return None
        case FlowRecord():
            return _flow(record)
        case RequestRecord():
            return _request(record)
        case RefusalRecord():
            return _refusal(record)
        case NameRecord():
            return _name(record)
        case _:
            assert_never(record)


def shown_owner(owner: Owner) -> str:
    """Returns the container in the form that begins a line."""
    return f"{owner.class_name}/{shown(owner.name)}"


def shown_host(host: str) -> str:
    """Returns a host name or address, quoted unless it is canonical; "-" for none."""
    return (host if HOST.fullmatch(host) and len(host) <= SHOWN else _quoted(host)) if host else "-"


def shown(text: str) -> str:
    """Returns text from outside as one word, quoted unless it is plain."""
    return text if PLAIN.fullmatch(text) and len(text) <= SHOWN else _quoted(text)


def shown_endpoint(endpoint: Endpoint) -> str:
    """Returns address and port as in a URL."""
    address, port = endpoint
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def sentence(error: BaseException) -> str:
    """Returns an error's message as one line."""
    text = str(error) or type(error).__name__
    return "".join(char if char.isprintable() else _escape(char) for char in text[: 2 * SHOWN])


def indented(text: str) -> str:
    """Returns text for a terminal: control characters escaped, all lines but the first indented."""
    return "\n  ".join(
        line if line.isprintable() else "".join(char if char.isprintable() else _escape(char) for char in line)
        for line in text.split("\n")
    )


def _flow(record: FlowRecord) -> str:
    where = f"{record.protocol.name} {shown_host(record.host)} {shown_endpoint(record.destination)}"
    counts = f"sent={record.sent} received={record.received} seconds={record.ended:.3f}"
    return f"flow {record.verdict.name} {where} rule={_rule(record.rule)} cause={record.cause.name} {counts}"


def _request(record: RequestRecord) -> str:
    what = f"{shown(record.method)} {shown(record.url)} {record.status or '-'}"
    counts = f"sent={record.sent} received={record.received} seconds={record.ended:.3f}"
    return f"request {record.verdict.name} {what} rule={_rule(record.rule)} {counts}"


def _refusal(record: RefusalRecord) -> str:
    where = "" if record.destination is None else f" {shown_endpoint(record.destination)}"
    detail = "".join(f" {shown(text)}" for text in (record.kind, record.url) if text)
    what = f"{record.refused} {shown_host(record.host)}{where}{detail}"
    return f"refused {what} rule={_rule(record.rule)} reason={shown(record.reason)}"


def _name(record: NameRecord) -> str:
    what = f"{shown_host(record.name)} {record.kind} {record.code}"
    return f"name {record.verdict.name} {what} rule={_rule(record.rule)} seconds={record.ended:.3f}"


def _rule(rule: str) -> str:
    return shown(rule) if rule else "-"


def _quoted(text: str) -> str:
    cut = "".join(char if PLAIN.fullmatch(char) or char == " " else _escape(char) for char in text[:SHOWN])
    return f'"{cut}"' + ("…" if len(text) > SHOWN else "")


def _escape(char: str) -> str:
    return '\\"' if char == '"' else char.encode("unicode_escape").decode("ascii")
