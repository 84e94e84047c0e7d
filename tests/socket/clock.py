"""A clock for tests on real sockets, with which timeouts take almost no time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

import trio
import trio.testing

QUIET = 0.05  # seconds without activity on any socket, after which the clock jumps to the next deadline
TIME = 120  # seconds of the jumping clock, for one test


def with_jumping_clock(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Runs an async test. All of its peers must be in this process, or the clock jumps while they work."""

    @wraps(test)
    def run(**fixtures: Any) -> None:
        async def main() -> None:
            with trio.fail_after(TIME):
                await test(**fixtures)

        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=QUIET))

    return run
