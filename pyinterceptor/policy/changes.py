"""Rows that are set at run time, laid over the stages of a class.

Pure. The compiled rows of all other stages are used as they are, so that a change costs the rows that it sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from pyinterceptor.policy.layout import Layout, Outcome, Stage, Takes
from pyinterceptor.policy.patterns import pattern
from pyinterceptor.policy.pieces import Pieces
from pyinterceptor.policy.rows import ALL_PROTOCOLS, SPOKEN, Row, compiled
from pyinterceptor.policy.rules import STAGES, host_rows


@dataclass(frozen=True, slots=True)
class Answer:
    """A rule's number, and its target. A row without a target refuses (lib.NO_TARGET)."""

    rule: int
    target: int


@dataclass(frozen=True, slots=True)
class Laid:
    """Rows to lay over a layout. `intercepts` are pairs of pattern and answer in their order; None is everything.

    `streams` are the rules among them whose targets take whole connections.

    `internet` replaces the class's enable_internet unless it is None.
    """

    intercepts: Sequence[tuple[str | None, Answer]] = ()
    streams: Set[int] = frozenset()
    hosts: Mapping[str, Answer] = field(default_factory=dict)
    catch_all: Answer | None = None
    internet: bool | None = None


def laid_over(layout: Layout, laid: Laid, targets: Sequence[Takes]) -> Pieces[Layout]:
    """Returns the layout with these rows, and with more targets.

    Raises PolicyError for a bad pattern.
    """
    stages = list(layout.stages)

    def put(name: str, rows: bytes) -> None:
        stages[STAGES.index(name)] = Stage(rows, Outcome.TARGET, Outcome.NEXT)

    if laid.intercepts:
        put("intercept_outbound_http", (yield from compiled(_intercepts(laid))))
    if laid.hosts:
        made = yield from host_rows({text: answer.rule for text, answer in laid.hosts.items()})
        by_rule = {answer.rule: answer.target for answer in laid.hosts.values()}
        put("set_outbound_by_host", (yield from compiled([row._replace(target=by_rule[row.rule]) for row in made])))
    if laid.catch_all is not None:
        row = Row(None, laid.catch_all.rule, 0, laid.catch_all.target, protocols=SPOKEN)
        put("set_outbound_handler", (yield from compiled([row])))
    if laid.internet is not None:
        at = STAGES.index("enable_internet")
        stages[at] = replace(stages[at], on_miss=Outcome.SPLICE if laid.internet else Outcome.REFUSE)
    return replace(layout, stages=tuple(stages), targets=(*layout.targets, *targets))


def _intercepts(laid: Laid) -> list[Row]:
    """Returns the rows in order of registration; those for everything come last."""
    rows = []
    for number, (text, answer) in enumerate(laid.intercepts):
        found = None if text is None else pattern(text)
        key, port, rank = (None, 0, number + len(laid.intercepts)) if found is None else (*found, number)
        protocols = ALL_PROTOCOLS if answer.rule in laid.streams else SPOKEN
        rows.append(Row(key, answer.rule, rank, answer.target, port, protocols))
    return rows
