"""Trio on a thread of its own: results, errors, cancellation and the end, for blocking callers and for asyncio."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from pyinterceptor.errors import RuntimeFailure
from pyinterceptor.faces import blocking, for_asyncio
from pyinterceptor.faces.portal import Portal

PATIENCE = 30.0  # seconds until a test counts as stuck


class Thing:
    """What a portal keeps open in these tests."""

    def __init__(self) -> None:
        self.cleaned = 0
        self.waiting = threading.Event()
        self.is_closed = False

    async def double(self, number: int, *, plus: int = 0) -> int:
        await trio.lowlevel.checkpoint()
        return 2 * number + plus

    async def fail(self) -> None:
        raise KeyError("a key")

    async def sleep(self) -> None:
        try:
            self.waiting.set()
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.05)
            self.cleaned += 1


@asynccontextmanager
async def opening(thing: Thing) -> AsyncIterator[Thing]:
    try:
        yield thing
    finally:
        thing.is_closed = True


def opened(thing: Thing) -> Portal[Thing]:
    portal = Portal(lambda: opening(thing))
    portal.start()
    assert portal.opened.result(PATIENCE) is thing
    return portal


def ended(portal: Portal[Thing]) -> None:
    portal.stop()
    portal.ended.result(PATIENCE)


def test_a_blocking_call_returns_the_result_or_raises_the_exception() -> None:
    thing = Thing()
    portal = opened(thing)
    assert blocking.result_of(portal.call(thing.double, 3, plus=1)) == 7
    with pytest.raises(KeyError, match="a key"):
        blocking.result_of(portal.call(thing.fail))
    assert blocking.result_of(portal.call(thing.double, 1)) == 2
    ended(portal)
    assert thing.is_closed


def test_an_interrupted_call_has_ended_when_the_interrupt_is_raised() -> None:
    thing = Thing()
    portal = opened(thing)

    def interrupt() -> None:
        thing.waiting.wait(PATIENCE)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    with pytest.raises(KeyboardInterrupt):
        blocking.result_of(portal.call(thing.sleep))
    assert thing.cleaned == 1
    interrupting.join()
    ended(portal)


def test_calls_from_asyncio_run_side_by_side_and_a_cancelled_one_has_ended() -> None:
    thing = Thing()
    portal = opened(thing)

    async def main() -> None:
        calls = [for_asyncio.result_of(portal.call(thing.double, number)) for number in range(100)]
        assert await asyncio.gather(*calls) == [2 * number for number in range(100)]
        with pytest.raises(KeyError, match="a key"):
            await for_asyncio.result_of(portal.call(thing.fail))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(for_asyncio.result_of(portal.call(thing.sleep)), 0.05)
        assert thing.cleaned == 1

    asyncio.run(main())
    ended(portal)


def test_calls_that_go_on_end_with_the_portal_and_later_ones_are_refused() -> None:
    thing = Thing()
    portal = opened(thing)
    going_on = [portal.call(thing.sleep) for _ in range(3)]
    for call in going_on:
        call.begin()
    thing.waiting.wait(PATIENCE)
    ended(portal)
    assert thing.cleaned == 3
    for call in going_on:
        with pytest.raises(RuntimeFailure, match="the interceptor has ended"):
            call.future.result(PATIENCE)
    with pytest.raises(RuntimeFailure, match="the interceptor has ended"):
        blocking.result_of(portal.call(thing.double, 1))


def test_a_call_that_is_interrupted_before_it_begins_has_ended() -> None:
    thing = Thing()
    portal = opened(thing)
    call = portal.call(thing.sleep)
    call.cancel()
    with pytest.raises(RuntimeFailure, match="the interceptor has ended"):
        call.future.result(PATIENCE)
    assert not thing.waiting.is_set()
    ended(portal)


def test_a_failed_opening_is_raised_and_the_thread_ends() -> None:
    @asynccontextmanager
    async def fails() -> AsyncIterator[None]:
        raise ValueError("no way in")
        yield

    portal = Portal(fails)
    portal.start()
    with pytest.raises(ValueError, match="no way in"):
        portal.opened.result(PATIENCE)
    assert portal.ended.result(PATIENCE) is None


def test_an_opening_that_takes_long_is_cancelled_by_stop() -> None:
    begun = threading.Event()

    @asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        begun.set()
        await trio.sleep_forever()
        yield

    portal = Portal(slow)
    portal.start()
    begun.wait(PATIENCE)
    ended(portal)  # type: ignore[arg-type]
    with pytest.raises(RuntimeFailure, match="was stopped while it was opened"):
        portal.opened.result(PATIENCE)


def test_a_failure_of_the_context_ends_the_calls_and_is_raised_at_the_end() -> None:
    crash = threading.Event()

    @asynccontextmanager
    async def crashing() -> AsyncIterator[Thing]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fall)
            yield Thing()

    async def fall() -> None:
        await trio.to_thread.run_sync(crash.wait)
        raise OSError("the relay is gone")

    portal = Portal(crashing)
    portal.start()
    thing = portal.opened.result(PATIENCE)
    call = portal.call(thing.sleep)
    call.begin()
    thing.waiting.wait(PATIENCE)
    crash.set()
    with pytest.raises(RuntimeFailure, match="the interceptor has ended"):
        call.future.result(PATIENCE)
    with pytest.raises(ExceptionGroup):
        portal.ended.result(PATIENCE)


def test_a_held_context_is_opened_and_closed_by_one_task() -> None:
    tasks: list[object] = []

    @asynccontextmanager
    async def noted() -> AsyncIterator[str]:
        tasks.append(trio.lowlevel.current_task())
        yield "value"
        tasks.append(trio.lowlevel.current_task())

    @asynccontextmanager
    async def refused() -> AsyncIterator[str]:
        raise TypeError("not these")
        yield

    portal = opened(Thing())
    with blocking.held_open(portal, noted()) as value:
        assert value == "value"
    assert len(tasks) == 2
    assert tasks[0] is tasks[1]
    with pytest.raises(TypeError, match="not these"), blocking.held_open(portal, refused()):
        pass
    ended(portal)
    with pytest.raises(RuntimeFailure, match="has ended"), blocking.held_open(portal, noted()):
        pass
