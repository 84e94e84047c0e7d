"""Where a failure stops: at the flow, the handler or the container that it is of.

Two things pass every boundary: cancellation and KeyboardInterrupt.
"""

from __future__ import annotations

import trio

PASSING = (trio.Cancelled, KeyboardInterrupt)


def parted(error: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """The part of `error` that no boundary may hold back, and the part that ends there; None for one that is empty.

    A group may have both: a nursery in which one task called `sys.exit()` and the others were cancelled.
    """
    if isinstance(error, BaseExceptionGroup):
        return error.split(PASSING)
    return (error, None) if isinstance(error, PASSING) else (None, error)
