"""Work that can be paused: a generator that yields every millisecond or so, and returns its result.

Pure. Whoever drives it lets others run in between, or doesn't.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from heapq import merge
from typing import Any, TypeVar

T = TypeVar("T")
Pieces = Generator[None, None, T]

STEP = 200  # rows, hosts or names between two pauses: each costs 1 to 4 µs
RUN = 2000  # items sorted without a pause


def at_once(pieces: Pieces[T]) -> T:
    """The result, without a pause."""
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            result: T = end.value
            return result


def in_order(items: list[T], key: Callable[[T], Any]) -> Pieces[list[T]]:
    """The items sorted by `key`; equal ones stay in their order."""
    runs = []
    for start in range(0, len(items), RUN):
        runs.append(sorted(items[start : start + RUN], key=key))
        yield
    return runs[0] if len(runs) == 1 else (yield from _collected(merge(*runs, key=key)))


def _collected(items: Iterable[T]) -> Pieces[list[T]]:
    made = []
    for number, item in enumerate(items):
        if number % STEP == STEP - 1:
            yield
        made.append(item)
    return made
