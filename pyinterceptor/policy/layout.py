"""Stages and targets as one table: `struct policy_header` and the arrays it points to (cext/layout.h).

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct

from pyinterceptor._relay import ffi, lib
from pyinterceptor.errors import PolicyError

HEADER = Struct("=13I")  # struct policy_header
STAGE = Struct("=IHH")  # struct policy_stage

assert (HEADER.size, STAGE.size) == (ffi.sizeof("struct policy_header"), ffi.sizeof("struct policy_stage"))


class Outcome(IntEnum):
    """The result of a stage: one for a match, one for a miss."""

    REFUSE = lib.OUTCOME_REFUSE
    NEXT = lib.OUTCOME_NEXT
    SPLICE = lib.OUTCOME_SPLICE
    TARGET = lib.OUTCOME_TARGET  # the row's target answers; never on a miss


class Takes(IntEnum):
    """The kind of traffic that a target takes."""

    HTTP = lib.TAKES_HTTP
    STREAM = lib.TAKES_STREAM


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage. `rows` are compiled; several stages and policies may share them."""

    rows: bytes
    on_match: Outcome
    on_miss: Outcome


@dataclass(frozen=True, slots=True)
class Layout:
    """The content of a table.

    `targets` are found by index, `waits` are the ports whose clients speak first, `locals` the rows of local_networks.
    """

    stages: Sequence[Stage]
    targets: Sequence[Takes]
    waits: Sequence[int]
    locals: bytes


def assembled(layout: Layout, generation: int) -> bytes:
    """Returns the table.

    Raises PolicyError if there are too many ports.
    """
    if (count := len(layout.waits)) > lib.WAITS_MAX:
        raise PolicyError(f"at most {lib.WAITS_MAX} ports can wait for the client's first bytes, not {count}")
    stages_at = HEADER.size
    targets_at = stages_at + STAGE.size * len(layout.stages)
    waits_at = targets_at + 4 * len(layout.targets)
    offset = waits_at + 2 * len(layout.waits) + 2 * (len(layout.waits) % 2)
    places: dict[int, int] = {}  # of rows, by the identity of their bytes
    parts: list[bytes] = []
    for rows in (layout.locals, *(stage.rows for stage in layout.stages)):
        if id(rows) not in places:
            places[id(rows)] = offset
            parts.append(rows)
            offset += len(rows)
    counts = (len(layout.stages), stages_at, len(layout.targets), targets_at, len(layout.waits), waits_at)
    header = HEADER.pack(lib.POLICY_MAGIC, offset, generation, places[id(layout.locals)], *counts, 0, HEADER.size, 0)
    stages = [STAGE.pack(places[id(stage.rows)], stage.on_match, stage.on_miss) for stage in layout.stages]
    targets = Struct(f"={len(layout.targets)}I").pack(*layout.targets)
    waits = Struct(f"={len(layout.waits)}H{2 * (len(layout.waits) % 2)}x").pack(*layout.waits)
    return b"".join((header, *stages, targets, waits, *parts))


def resolved(table: bytes, addresses: Iterable[bytes]) -> bytes:
    """Returns the table with the real addresses (16 bytes each) of the names that its rules name exactly.

    Without them, C refuses whatever could be read in two ways at every address (`policy_may_rule`, cext/policy.h).
    """
    ruled = sorted(set(addresses))
    fields = list(HEADER.unpack_from(table))
    at = len(table)
    fields[1] = at + 16 * len(ruled)
    fields[10:] = len(ruled), at, 1
    return b"".join((HEADER.pack(*fields), table[HEADER.size :], *ruled))
