"""Boundaries of failures: a failure ends the flow, handler or container in which it happens.

Two things pass every boundary: cancellation and KeyboardInterrupt.
"""

from __future__ import annotations

import trio

PASSING = (trio.Cancelled, KeyboardInterrupt)


def parted(error: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """Splits an error into the part that passes every boundary, and the part that ends there; None if one is empty.

    A group may have both: a nursery in which one task called `sys.exit()` and the others were cancelled.
    """
    if isinstance(error, BaseExceptionGroup):
        return error.split(PASSING)
    return (error, None) if isinstance(error, PASSING) else (None, error)
