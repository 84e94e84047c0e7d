"""Runs Trio on a thread of its own, and calls functions there from other threads."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from typing import Any, Generic, TypeVar

import trio

from pyinterceptor.boundary import parted
from pyinterceptor.errors import RuntimeFailure

R = TypeVar("R")
T = TypeVar("T")


class Call(Generic[R]):
    """A call of an asynchronous function in Trio. `future` gets its result or exception.

    It exists before it begins, so that an interrupt between the two finds a call that can be cancelled.
    """

    def __init__(self, portal: Portal[Any], function: Callable[[], Awaitable[R]]) -> None:
        self.future: Future[R] = Future()
        self._portal = portal
        self._function = function
        self._scope = trio.CancelScope()
        self._has_begun = False  # in Trio

    def begin(self) -> None:
        """Begins the call from another thread. It fails with RuntimeFailure if the portal has ended."""
        if not self._portal.soon(self._begin):
            self._end()

    def cancel(self) -> None:
        """Cancels the call from another thread. The future is set once the function has cleaned up."""
        if not self._portal.soon(self._cancel):
            self._end()

    def _begin(self) -> None:
        self._has_begun = self._portal.start_soon(self._run)
        if not self._has_begun:
            self._end()

    def _cancel(self) -> None:
        self._scope.cancel()
        if not self._has_begun:
            self._end()

    def _end(self) -> None:
        """Sets the future of a call that has no result, because it was cancelled or came too late."""
        if not self.future.done():
            self.future.set_exception(RuntimeFailure("the interceptor has ended"))

    async def _run(self) -> None:
        """Runs the function in Trio. Its exception goes to the future alone."""
        try:
            with self._scope:
                self.future.set_result(await self._function())
        except BaseException as error:
            passes, ends = parted(error)
            if ends is not None:
                self.future.set_exception(ends)
            if passes is not None:
                raise passes from None
        finally:
            self._end()


class Held(Generic[T]):
    """A context that one task keeps open. `opened` gets its value, `closed` the exception of its end."""

    closed: Future[None]

    def __init__(self, context: AbstractAsyncContextManager[T]) -> None:
        self.opened: Future[T] = Future()
        self.closing = trio.Event()
        self._context = context

    async def run(self) -> None:
        """Keeps the context open in Trio until `closing` is set."""
        async with self._context as value:
            self.opened.set_result(value)
            await self.closing.wait()

    def end(self, closed: Future[None]) -> None:
        """Passes the exception of the end on, if the context was never open."""
        if not self.opened.done():
            self.opened.set_exception(closed.exception())


class Portal(Generic[T]):
    """A thread in which Trio runs, with one asynchronous context open as long as it does.

    `opened` gets the value of the context, or the exception of its opening. `ended` is set when the thread ends, with
    the exception of a failure after the opening.
    """

    def __init__(self, opening: Callable[[], AbstractAsyncContextManager[T]]) -> None:
        self.opened: Future[T] = Future()
        self.ended: Future[None] = Future()
        self._opening = opening
        self._stopping = trio.Event()
        self._opening_scope = trio.CancelScope()
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None  # while calls are taken
        # As a daemon, so that a program that fails to leave the block can end.
        self._thread = threading.Thread(target=self._run, name="pyinterceptor", daemon=True)

    def start(self) -> None:
        """Starts the thread, which sets `opened`."""
        self._thread.start()

    def stop(self) -> None:
        """Cancels the opening or the calls that go on, and closes the context. Then the thread sets `ended`."""
        self.soon(self._stop)

    def call(self, function: Callable[..., Awaitable[R]], *args: Any, **kwargs: Any) -> Call[R]:
        """Returns a call of an asynchronous function, which has not begun."""
        return Call(self, partial(function, *args, **kwargs))

    def soon(self, function: Callable[..., object], *args: Any) -> bool:
        """Calls a function in Trio that doesn't wait. Returns False if Trio doesn't run."""
        if self._token is not None:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(function, *args)
                return True
        return False

    def start_soon(self, function: Callable[[], Awaitable[None]]) -> bool:
        """Starts a task in Trio. Returns False if no calls are taken any more."""
        if self._nursery is None:
            return False
        self._nursery.start_soon(function)
        return True

    def hold(self, context: AbstractAsyncContextManager[R]) -> Held[R]:
        """Opens a context in a task of its own, which keeps it open until `close` is called."""
        held = Held(context)
        call = self.call(held.run)
        held.closed = call.future
        held.closed.add_done_callback(held.end)
        call.begin()
        return held

    def _stop(self) -> None:
        self._stopping.set()
        if self._nursery is None:
            self._opening_scope.cancel()


    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:
            (self.ended if self.opened.done() else self.opened).set_exception(error)
        if not self.opened.done():
            self.opened.set_exception(RuntimeFailure("the interceptor was stopped while it was opened"))
        if not self.ended.done():
            self.ended.set_result(None)

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        with self._opening_scope:
            async with self._opening() as opened, trio.open_nursery() as nursery:
                self._nursery = nursery
                self.opened.set_result(opened)
                try:
                    await self._stopping.wait()
                finally:
                    self._nursery = None
                    nursery.cancel_scope.cancel()
