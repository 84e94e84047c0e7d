"""Policies for tests: stages of rows, and a slow reference of their decisions.

`decided` compares every row of every stage. It shares no code with C or with the builder of tables.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from pyinterceptor._relay import ffi, lib

from pyinterceptor.policy.addresses import Address, Network, packed
from pyinterceptor.policy.layout import Layout, Outcome, Stage, Takes, assembled
from pyinterceptor.policy.pieces import at_once
from pyinterceptor.policy.rows import Row, compiled

GENERATION = 9
V4_IN_V6 = [
    ("::/96", 0),
    ("64:ff9b::/96", 0),
    ("::ffff:0:0:0/96", 0),
    ("2002::/16", 80),
]  # prefix, and count of bits after the v4 address


@dataclass(frozen=True)
class Plan:
    """A stage whose rows are not compiled yet, unlike those of Stage."""

    rows: tuple[Row, ...]
    on_match: Outcome
    on_miss: Outcome


def network(text: str) -> Network:
    """Returns a row's key for a network or address."""
    read = ipaddress.ip_network(text)
    return Network(packed(read.network_address), read.prefixlen + 128 - read.max_prefixlen)


def table(
    plans: Sequence[Plan], targets: Sequence[Takes] = (), waits: Sequence[int] = (80, 443), locals_: Sequence[Row] = ()
) -> bytes:
    """Compiles a table. Rows that are the same object in two stages are written once."""
    made = {id(plan.rows): at_once(compiled(plan.rows)) for plan in plans}
    stages = [Stage(made[id(plan.rows)], plan.on_match, plan.on_miss) for plan in plans]
    blob = assembled(Layout(stages, targets, waits, at_once(compiled(locals_))), GENERATION)
    assert lib.policy_check(ffi.from_buffer(blob), len(blob))
    return blob


@dataclass(frozen=True)
class Expected:
    verdict: int
    rule: int
    stage: int
    target: int
    reason: int


def decided(
    plans: Sequence[Plan],
    targets: Sequence[Takes],
    waits: Sequence[int],
    protocol: int,
    host: str,
    destination: tuple[Address, int] | None,
) -> Expected:
    """Returns the decision of these stages for a canonical host."""
    if protocol == lib.PROTOCOL_NONE and destination is not None and destination[1] in waits:
        protocol = lib.PROTOCOL_OPAQUE
    for number, plan in enumerate(plans):
        matching = [row for row in plan.rows if admits(row, protocol, destination) and holds(row, host, destination)]
        row = min(matching, key=lambda row: row.rank, default=None)
        outcome = plan.on_miss if row is None else plan.on_match
        if outcome is Outcome.NEXT:
            continue
        rule, reason = (lib.NO_RULE, lib.REASON_MISS) if row is None else (row.rule, lib.REASON_MATCH)
        if row is None or outcome is not Outcome.TARGET:
            verdict = lib.VERDICT_SPLICE if outcome is Outcome.SPLICE else lib.VERDICT_REFUSE
            return Expected(verdict, rule, number, lib.NO_TARGET, reason)
        if row.target == lib.NO_TARGET:
            return Expected(lib.VERDICT_REFUSE, rule, number, lib.NO_TARGET, reason)
        if protocol == lib.PROTOCOL_HTTP or targets[row.target] is Takes.STREAM:
            return Expected(lib.VERDICT_HANDLE, rule, number, row.target, reason)
        return Expected(lib.VERDICT_REFUSE, rule, number, row.target, lib.REASON_NOT_HTTP)
    return Expected(lib.VERDICT_REFUSE, lib.NO_RULE, lib.NO_STAGE, lib.NO_TARGET, lib.REASON_NO_STAGE)


def best_for_name(plans: Sequence[Plan], host: str) -> int:
    """Returns the most permissive verdict for this name: each stage may match, or miss, or both."""
    best = lib.VERDICT_REFUSE
    verdicts = {Outcome.SPLICE: lib.VERDICT_SPLICE, Outcome.TARGET: lib.VERDICT_HANDLE}
    for plan in plans:
        holding = [row for row in plan.rows if holds(row, host, None)]
        outcomes = [plan.on_match] if holding else []
        if not any(row.port == 0 and row.protocols & 0x1F == 0x1F for row in holding):
            outcomes.append(plan.on_miss)
        best = max([best, *(verdicts.get(outcome, lib.VERDICT_REFUSE) for outcome in outcomes)])
        if Outcome.NEXT not in outcomes:
            break
    return best


def admits(row: Row, protocol: int, destination: tuple[Address, int] | None) -> bool:
    return bool(row.protocols >> protocol & 1) and (row.port == 0 or (destination or (None, 0))[1] == row.port)


def holds(row: Row, host: str, destination: tuple[Address, int] | None) -> bool:
    if row.key is None:
        return True
    if isinstance(row.key, str):
        return bool(host) and re.fullmatch(".*".join(map(re.escape, row.key.split("*"))), host) is not None
    found = [destination[0]] if destination else []
    if literal := address_of(host):
        found.append(literal)
    found += [inner for address in found if (inner := hidden(address)) is not None]
    return any(in_network(row.key, address) for address in found)


def address_of(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def in_network(key: Network, address: Address) -> bool:
    mapped = address.ipv4_mapped if address.version == 6 else None
    if (mapped or address).version == 4 and key.prefix < 96:
        return False
    bits = int.from_bytes(packed(address), "big") ^ int.from_bytes(key.address, "big")
    return bits >> (128 - key.prefix) == 0


def hidden(address: Address) -> ipaddress.IPv4Address | None:
    if address.version == 4 or address.ipv4_mapped or int(address) < 2:
        return None
    for text, behind in V4_IN_V6:
        if address in ipaddress.ip_network(text):
            return ipaddress.IPv4Address(int(address) >> behind & 0xFFFFFFFF)
    return None
