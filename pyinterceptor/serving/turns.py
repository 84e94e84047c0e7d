"""Long work on Trio's thread, in turns with every other task."""

from __future__ import annotations

from typing import TypeVar

import trio

from pyinterceptor.policy.pieces import Pieces

T = TypeVar("T")


async def in_turns(pieces: Pieces[T]) -> T:
    """The result. Other tasks run after every piece, about a millisecond each: a thread would hold the GIL for 5 ms."""
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            result: T = end.value
            return result
        await trio.lowlevel.checkpoint()
