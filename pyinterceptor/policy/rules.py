"""All rules of one container: read, checked, and arranged in stages.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pyinterceptor._relay import lib
from pyinterceptor.policy.addresses import network
from pyinterceptor.policy.layout import Layout, Outcome, Stage, Takes
from pyinterceptor.policy.patterns import ranked
from pyinterceptor.policy.pieces import Pieces, batches
from pyinterceptor.policy.rows import SPOKEN, Row, compiled

# By index. The class has no rows in the stages of calls (intercept_…, set_…): policy/changes.py fills them.
STAGES = (
    "intercept_outbound_http",
    "set_outbound_by_host",
    "outbound_by_host",
    "set_outbound_handler",
    "outbound",
    "enable_internet",
)
PARSED = 50  # networks between two pauses: each costs 15 µs
WAITS = (80, 443)  # ports whose clients speak first


@dataclass(frozen=True, slots=True)
class Rules:
    """`hosts` maps patterns to rule ids. These ids, and `catch_all`, are also indices of targets."""

    hosts: Mapping[str, int]
    catch_all: int | None
    internet: bool
    local_networks: tuple[str, ...] = ()


def laid_out(rules: Rules) -> Pieces[Layout]:
    """Arranges the rules as stages, targets and ports.

    Raises PolicyError for a bad pattern or network, or two patterns that are equal.
    """
    hosts = yield from host_rows(rules.hosts)
    outbound = [] if rules.catch_all is None else [Row(None, rules.catch_all, 0, rules.catch_all, protocols=SPOKEN)]
    empty = yield from compiled([])
    stages = (
        Stage(empty, Outcome.TARGET, Outcome.NEXT),
        Stage(empty, Outcome.TARGET, Outcome.NEXT),
        Stage((yield from compiled(hosts)), Outcome.TARGET, Outcome.NEXT),
        Stage(empty, Outcome.TARGET, Outcome.NEXT),
        Stage((yield from compiled(outbound)), Outcome.TARGET, Outcome.NEXT),
        Stage(empty, Outcome.REFUSE, Outcome.SPLICE if rules.internet else Outcome.REFUSE),
    )
    highest = max([*rules.hosts.values(), -1 if rules.catch_all is None else rules.catch_all])
    locals_ = yield from compiled((yield from _local_rows(rules.local_networks)))
    return Layout(stages, (Takes.HTTP,) * (highest + 1), WAITS, locals_)


def host_rows(patterns: Mapping[str, int]) -> Pieces[list[Row]]:
    """Returns the rows of the host rules in the order in which they answer."""
    rows = []
    for batch in batches(enumerate((yield from ranked(patterns)))):
        for rank, (found, rule) in batch:
            rows.append(Row(found.key, rule, rank, rule, found.port, SPOKEN))
        yield
    return rows


def _local_rows(texts: Iterable[str]) -> Pieces[list[Row]]:
    rows = []
    for batch in batches(enumerate(texts), PARSED):
        for number, text in batch:
            named, port = network(text)
            rows.append(Row(named, lib.NO_RULE, number, port=port))
        yield
    return rows
