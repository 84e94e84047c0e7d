"""Parts that both faces share."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from pyinterceptor.faces.portal import Portal
from pyinterceptor.serving.channel import R, Subscription

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")


class Face(Generic[T]):
    """An object of the interceptor, for another thread than Trio's."""

    def __init__(self, portal: Portal[Any], inner: T) -> None:
        self.portal = portal
        self.inner = inner


def in_trio(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], Awaitable[T]]:
    """Returns the asynchronous form of a method that doesn't wait, so that it runs in Trio's thread like the others."""

    @functools.wraps(method)
    async def asynchronous(inner: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return method(inner, *args, **kwargs)

    return asynchronous


async def next_of(records: Subscription[R]) -> R | None:
    """Returns the next record; None after the last. A future can't carry StopAsyncIteration."""
    return await anext(records, None)
