"""Explains a decision: each stage that was consulted, and its rows for this host and destination.

Pure. It reads the same bytes that C decides by.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pyinterceptor._relay import ffi, lib
from pyinterceptor.policy.addresses import Address, Network, written
from pyinterceptor.policy.layout import Outcome
from pyinterceptor.policy.table import Decision, decide, endpoint

PROTOCOLS = {
    lib.PROTOCOL_NONE: "nothing yet",
    lib.PROTOCOL_HTTP: "HTTP",
    lib.PROTOCOL_TLS: "TLS",
    lib.PROTOCOL_HTTP2: "HTTP/2",
    lib.PROTOCOL_OPAQUE: "opaque",
}
EVERYTHING = "*"
ITEMS = {  # of the arrays of struct policy_rows
    **dict.fromkeys(("names", "suffixes", "prefixes", "globs"), "struct policy_name"),
    "networks": "struct policy_network",
    "all": "struct policy_row",
}
VERDICTS = {lib.VERDICT_REFUSE: "refused", lib.VERDICT_SPLICE: "passes", lib.VERDICT_HANDLE: "handled"}
REASONS = {
    lib.REASON_NO_STAGE: "no stage answers",
    lib.REASON_MATCH: "a row matches",
    lib.REASON_MISS: "no row matches",
    lib.REASON_NOT_HTTP: "its target takes HTTP alone",
}


@dataclass(frozen=True, slots=True)
class Seen:
    """A row that matches the host or the destination. `fault`: why it does not answer, "" if it does."""

    pattern: str  # EVERYTHING for a row that matches any host
    port: int  # 0: any
    rule: int
    rank: int
    fault: str


@dataclass(frozen=True, slots=True)
class Step:
    """One stage: the number of its rows, the rows that match, and its outcome."""

    stage: int
    count: int
    rows: tuple[Seen, ...]  # by rank
    outcome: Outcome


def explain(
    table: bytes, protocol: int, host: str, destination: tuple[Address, int] | None
) -> tuple[tuple[Step, ...], Decision]:
    """Returns the consulted stages in order, and the decision."""
    asked, steps = _asked(table, protocol, destination), list[Step]()
    for number, stage in enumerate(_stages(table)):
        rows = Rows(table, stage.rows)
        holding = sorted(map(rows.at, _offsets(table, number, host, destination)), key=lambda found: int(found[1].rank))
        seen = tuple(_seen(holding, asked, destination))
        outcome = Outcome(stage.on_match if any(not row.fault for row in seen) else stage.on_miss)
        steps.append(Step(number, rows.count, seen, outcome))
        if outcome is not Outcome.NEXT:
            break
    return tuple(steps), decide(table, protocol, host, destination)


def lines(steps: Sequence[Step], decision: Decision, stages: Sequence[str], rules: Sequence[str]) -> list[str]:
    """Returns the steps as text. `stages` and `rules` are the names that the policy gives them."""
    made = []
    for step in steps:
        made.append(f"{stages[step.stage]}: {_rows_of(step)}, {step.outcome.name.lower()}")
        for row in step.rows:
            pattern = row.pattern if row.port == 0 else f"{row.pattern} port {row.port}"
            made.append(f"  {pattern}: {row.fault or 'matches'}")
    by = f" by {rules[decision.rule]}" if decision.rule < len(rules) else ""
    return [*made, f"{VERDICTS[decision.verdict]}{by}: {REASONS[decision.reason]}"]


def _stages(table: bytes) -> Any:
    """Returns the array of struct policy_stage of the table."""
    stages = ffi.from_buffer("struct policy_header *", table).stages
    return ffi.from_buffer(f"struct policy_stage[{stages.count}]", memoryview(table)[stages.offset :])


def _rows_of(step: Step) -> str:
    return f"{step.count} row{'' if step.count == 1 else 's'}, {len(step.rows)} for this host or address"


# ---- the rows of a stage ----

Found = tuple[str, Any]  # a pattern and its struct policy_row


class Rows:
    """The struct policy_rows that begins at `start` of the table."""

    def __init__(self, table: bytes, start: int) -> None:
        self._table = table
        self._start = start
        self._arrays = ffi.from_buffer("struct policy_rows *", memoryview(table)[start:])
        self.count = sum(getattr(self._arrays, field).count for field in ITEMS)

    def at(self, offset: int) -> Found:
        """Returns the row at this offset of the table."""
        for field, item in ITEMS.items():
            array = getattr(self._arrays, field)
            begins = self._start + array.offset
            if begins <= offset < begins + array.count * ffi.sizeof(item):
                return self._found(
                    field, ffi.from_buffer(f"{item} *", memoryview(self._table)[offset - _row_in(item) :])
                )
        raise ValueError(f"no row is at {offset}")

    def _found(self, field: str, item: Any) -> Found:
        match field:
            case "all":
                return EVERYTHING, item
            case "networks":
                return written(Network(bytes(item.address), item.prefix)), item.row
            case "suffixes":
                return "*" + self._text(item)[::-1], item.row
            case "prefixes":
                return self._text(item) + "*", item.row
            case _:
                return self._text(item), item.row

    def _text(self, name: Any) -> str:
        begins = self._start + name.text
        return self._table[begins : begins + name.length].decode("ascii")


def _row_in(item: str) -> int:
    """Returns the offset of the row in an item of this type."""
    return 0 if item == "struct policy_row" else ffi.offsetof(item, "row")


def _offsets(table: bytes, stage: int, host: str, destination: tuple[Address, int] | None) -> set[int]:
    """Returns the offsets of the stage's rows that match the host or the destination."""
    name, to, room = host.encode("ascii", "replace"), endpoint(destination), 16
    while True:
        offsets = ffi.new("uint32_t[]", room)
        count = lib.policy_list_rows(ffi.from_buffer(table), stage, name, len(name), to, offsets, room)
        if count <= room:
            return set(offsets[0:count])
        room = count


def _seen(holding: Sequence[Found], asked: int, destination: tuple[Address, int] | None) -> Iterator[Seen]:
    """Yields each row, with the reason why it does not answer, if any."""
    port, has_matched = destination[1] if destination else 0, False
    for pattern, row in holding:
        fault = ""
        if row.port not in (0, port):
            fault = "for another port"
        elif not row.protocols >> asked & 1:
            fault = f"not for {PROTOCOLS[asked]}"
        elif has_matched:
            fault = "after the one that matches"
        has_matched = has_matched or not fault
        yield Seen(pattern, row.port, row.rule, row.rank, fault)


def _asked(table: bytes, protocol: int, destination: tuple[Address, int] | None) -> int:
    """Returns the protocol that rows are matched against: a silent client at a waiting port counts as opaque."""
    is_silent = protocol == lib.PROTOCOL_NONE and destination is not None
    waits = is_silent and destination is not None and lib.policy_waits(ffi.from_buffer(table), destination[1])
    return int(lib.PROTOCOL_OPAQUE) if waits else protocol
