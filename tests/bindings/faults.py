"""What a resource must do where its engine fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from pyinterceptor import BadArgument, BindingError

DEADLINE = 8.0  # seconds in which every call must have answered, whatever its engine does


async def fails(call: Callable[[], Awaitable[Any]], *statuses: int) -> BindingError:
    """With one of these, in time, and not for what was asked."""
    with trio.fail_after(DEADLINE), pytest.raises(BindingError) as caught:
        await call()
    assert not isinstance(caught.value, BadArgument)
    assert caught.value.status in statuses
    return caught.value
