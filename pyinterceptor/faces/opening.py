"""Opens an interceptor in a thread, for a program that doesn't run Trio."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, ParamSpec

from pyinterceptor.faces.blocking import BlockingInterceptor
from pyinterceptor.faces.for_asyncio import AsyncioInterceptor
from pyinterceptor.faces.portal import Portal
from pyinterceptor.opening import open_interceptor
from pyinterceptor.serving.interceptor import Interceptor

P = ParamSpec("P")


class InThread:
    """Made by `open_in_thread`: a context for `with` and for asyncio's `async with`, to be entered once."""

    def __init__(self, opening: Callable[[], AbstractAsyncContextManager[Interceptor]]) -> None:
        self._portal = Portal(opening)

    def __enter__(self) -> BlockingInterceptor:
        self._portal.start()
        try:
            return BlockingInterceptor(self._portal, self._portal.opened.result())
        except BaseException:
            self._portal.stop()
            self._portal.ended.result()
            raise

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._portal.stop()
        self._portal.ended.result()

    async def __aenter__(self) -> AsyncioInterceptor:
        self._portal.start()
        try:
            return AsyncioInterceptor(self._portal, await asyncio.wrap_future(self._portal.opened))
        except BaseException:
            self._portal.stop()
            await asyncio.wrap_future(self._portal.ended)
            raise

    async def __aexit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._portal.stop()
        await asyncio.wrap_future(self._portal.ended)


def _takes_arguments_of(
    opening: Callable[P, AbstractAsyncContextManager[Interceptor]],
) -> Callable[[Callable[..., InThread]], Callable[P, InThread]]:
    def typed(function: Callable[..., InThread]) -> Callable[P, InThread]:
        return functools.wraps(opening, assigned=())(function)  # for inspect.signature()

    return typed


@_takes_arguments_of(open_interceptor)
def open_in_thread(*args: Any, **kwargs: Any) -> InThread:
    """Opens an interceptor in a thread of its own, for a program without Trio. Takes `open_interceptor`'s arguments.

    Blocking, from any thread:

        with open_in_thread(app) as interceptor:
            finished = interceptor.get_container(Sandbox, "one").exec("curl -s http://my.kv/greeting")

    With asyncio:

        async with open_in_thread(app) as interceptor:
            container = await interceptor.get_container(Sandbox, "one")
            finished = await container.exec("curl -s http://my.kv/greeting")

    Handlers run in that thread, under Trio. A cancelled or interrupted call ends in Trio before it is raised.
    Raises the errors of `open_interceptor` when the block is entered.
    """
    return InThread(functools.partial(open_interceptor, *args, **kwargs))
