"""Compiles the table that C reads, and calls C's matcher from Python.

Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyinterceptor._relay import ffi, lib
from pyinterceptor.policy.addresses import Address, packed
from pyinterceptor.policy.layout import assembled
from pyinterceptor.policy.pieces import Pieces, at_once
from pyinterceptor.policy.rules import Rules, laid_out


@dataclass(frozen=True, slots=True)
class Decision:
    """`struct decision` (cext/policy.h): `verdict`, `reason` and `matched` are lib.VERDICT_*, REASON_*, MATCHED_*."""

    verdict: int
    rule: int  # or lib.NO_RULE
    generation: int
    stage: int  # or lib.NO_STAGE
    target: int  # or lib.NO_TARGET
    reason: int
    matched: int


def compile(rules: Rules, generation: int) -> bytes:
    """Returns the table of these rules.

    Raises PolicyError for a bad rule.
    """
    return at_once(compiling(rules, generation))


def compiling(rules: Rules, generation: int) -> Pieces[bytes]:
    """Compiles the table like `compile`, in pieces."""
    return assembled((yield from laid_out(rules)), generation)


def decide(table: bytes, protocol: int, host: str, destination: tuple[Address, int] | None) -> Decision:
    """Returns the decision for a flow or request. `protocol` is a lib.PROTOCOL_*; an unknown destination is None."""
    name = host.encode("ascii", "replace")
    made = lib.policy_decide(ffi.from_buffer(table), protocol, name, len(name), endpoint(destination))
    return Decision(made.verdict, made.rule, made.generation, made.stage, made.target, made.reason, made.matched)


def endpoint(destination: tuple[Address, int] | None) -> Any:
    """Returns a `struct endpoint *`; NULL if the destination is None."""
    if destination is None:
        return ffi.NULL
    made = ffi.new("struct endpoint *")
    made.address, made.port = packed(destination[0]), destination[1]
    return made


def decide_name(table: bytes, host: str) -> int:
    """Returns the most permissive lib.VERDICT_* for this name at any address, port and protocol."""
    name = host.encode("ascii", "replace")
    return int(lib.policy_decide_name(ffi.from_buffer(table), name, len(name)))
