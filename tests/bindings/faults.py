"""An assertion on the error of a resource whose engine fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from pyinterceptor import BadArgument, BindingError

DEADLINE = 8.0  # seconds within which every call must return or raise, even if its engine hangs


async def fails(call: Callable[[], Awaitable[Any]], *statuses: int) -> BindingError:
    """Asserts that the call raises BindingError within DEADLINE, with one of these statuses, and no BadArgument."""
    with trio.fail_after(DEADLINE), pytest.raises(BindingError) as caught:
        await call()
    assert not isinstance(caught.value, BadArgument)
    assert caught.value.status in statuses
    return caught.value
