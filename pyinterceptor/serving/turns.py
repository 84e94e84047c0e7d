"""Runs long work on Trio's thread in pieces, in turns with other tasks."""

from __future__ import annotations

from typing import TypeVar

import trio

from pyinterceptor.policy.pieces import Pieces

T = TypeVar("T")


async def in_turns(pieces: Pieces[T]) -> T:
    """Runs all pieces; returns the result. Other tasks run after each piece of about 1 ms.

    A thread is no alternative, because it may hold the GIL for 5 ms at a time.
    """
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            result: T = end.value
            return result
        await trio.lowlevel.checkpoint()
