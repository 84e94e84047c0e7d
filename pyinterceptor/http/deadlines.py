"""Deadlines that cost an assignment: one task looks at all of them, twice a second.

A Trio scope with a deadline of its own costs as much as a small response, and a server moves its deadline several times
in one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import trio

PERIOD = 0.5  # seconds by which a deadline may be early or late
NEVER = math.inf


class Deadline:
    """`expires` may be set at any time, to seconds of `Deadlines.now`; its scope is cancelled when they have come."""

    __slots__ = ("expires", "scope")

    def __init__(self, scope: trio.CancelScope) -> None:
        self.scope = scope
        self.expires = NEVER


class Deadlines:
    """`await deadlines.run()` in a task of its own; `with deadlines.watch(scope) as deadline` for each."""

    def __init__(self) -> None:
        self.now = 0.0  # seconds of Trio's clock, as of the last look
        self._watched: set[Deadline] = set()
        self._wanted = trio.Event()

    async def run(self) -> None:
        """Cancels what is overdue, until cancelled."""
        while True:
            await self._wanted.wait()
            self.now = trio.current_time()
            for deadline in self._watched:
                if deadline.expires <= self.now:
                    deadline.scope.cancel()
            await trio.sleep(PERIOD)

    @contextmanager
    def watch(self, scope: trio.CancelScope) -> Iterator[Deadline]:
        """A deadline for the scope, as long as the block lasts."""
        deadline = Deadline(scope)
        if not self._watched:
            self.now = trio.current_time()
            self._wanted.set()
        self._watched.add(deadline)
        try:
            yield deadline
        finally:
            self._watched.remove(deadline)
            if not self._watched:
                self._wanted = trio.Event()
