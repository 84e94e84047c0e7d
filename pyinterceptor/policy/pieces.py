"""Work that can be paused: a generator that yields every millisecond or two, and returns its result.

Pure. The caller decides whether other tasks run between two pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from heapq import merge
from itertools import islice
from typing import Any, TypeVar

T = TypeVar("T")
Pieces = Generator[None, None, T]

STEP = 50  # rows, hosts, names or patterns between two pauses: each costs 1 to 30 µs
RUN = 2000  # items sorted without a pause


def at_once(pieces: Pieces[T]) -> T:
    """Runs all pieces without a pause; returns the result."""
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            result: T = end.value
            return result


def batches(items: Iterable[T], step: int = STEP) -> Iterator[list[T]]:
    """Yields the items in lists of `step`. The caller pauses after each."""
    rest = iter(items)
    while batch := list(islice(rest, step)):
        yield batch


def in_order(items: list[T], key: Callable[[T], Any]) -> Pieces[list[T]]:
    """Returns the items sorted by `key`; equal ones keep their order."""
    runs = []
    for start in range(0, len(items), RUN):
        runs.append(sorted(items[start : start + RUN], key=key))
        yield
    if len(runs) == 1:
        return runs[0]
    made = []
    for batch in batches(merge(*runs, key=key)):
        made += batch
        yield
    return made
