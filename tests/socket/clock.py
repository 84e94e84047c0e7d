"""Tests on real sockets whose timeouts take no time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

import trio
import trio.testing

QUIET = 0.05  # seconds in which nothing happens on any socket: then the clock jumps
TIME = 120  # of the jumping clock's seconds, for one test


def with_jumping_clock(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """A test that is an async function and all of whose peers are in this process."""

    @wraps(test)
    def run(**fixtures: Any) -> None:
        async def main() -> None:
            with trio.fail_after(TIME):
                await test(**fixtures)

        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=QUIET))

    return run
