"""Jobs on a dedicated thread: turns, errors, and cancelled callers."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Sequence

import outcome
import pytest
import trio
import trio.testing

from pyinterceptor.bindings.jobs import Job, each, open_jobs
from tests.socket.loopback import in_trio


@in_trio
async def test_each_job_gets_its_own_result_or_error() -> None:
    async with open_jobs(each) as jobs:
        assert await jobs.run(lambda: threading.current_thread().name) == "pyinterceptor-jobs"
        with pytest.raises(ZeroDivisionError):
            await jobs.run(lambda: 1 / 0)
        assert await jobs.run(lambda: 5) == 5


class Held:
    """A job that occupies the thread until `go_on` is set."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        self.go_on.wait(10)  # bounded, so that a failed test ends, too


@in_trio
async def test_queued_jobs_are_run_in_one_turn_and_in_order() -> None:
    sizes: list[int] = []
    held = Held()

    def turn(some: Sequence[Job]) -> None:
        sizes.append(len(some))
        each(some)

    done: list[int] = []

    async with open_jobs(turn) as jobs, trio.open_nursery() as nursery:
        nursery.start_soon(jobs.run, held)
        await trio.to_thread.run_sync(held.begun.wait)
        for number in range(10):
            nursery.start_soon(jobs.run, functools.partial(done.append, number))
            await trio.testing.wait_all_tasks_blocked()
        held.go_on.set()
    assert sizes == [1, 10]
    assert done == [*range(10)]


@in_trio
async def test_an_error_of_the_turn_reaches_all_its_callers_and_the_next_turn_runs() -> None:
    def turn(some: Sequence[Job]) -> None:
        for job in some:
            job.outcome = outcome.Value(job.do["value"])

    async with open_jobs(turn) as jobs:
        for wrong in ({}, None):
            with pytest.raises((KeyError, TypeError)):
                await jobs.run(wrong)
        assert await jobs.run({"value": 1}) == 1


@in_trio
async def test_a_job_cancelled_before_its_turn_is_not_run() -> None:
    done: list[str] = []
    held = Held()
    async with open_jobs(each) as jobs, trio.open_nursery() as nursery:
        nursery.start_soon(jobs.run, held)
        await trio.to_thread.run_sync(held.begun.wait)
        with trio.move_on_after(0.05):
            await jobs.run(lambda: done.append("cancelled"))
        held.go_on.set()
        await jobs.run(lambda: done.append("behind it"))
    assert done == ["behind it"]


class Thing:
    """Stands for a large value or an open file."""


@in_trio
async def test_a_thread_that_waits_holds_nothing_of_its_last_turn() -> None:
    async with open_jobs(each) as jobs:
        thing = await jobs.run(Thing)
        held = weakref.ref(thing)
        del thing
        with trio.move_on_after(5):
            while held() is not None:  # noqa: ASYNC110  # the thread sends no event
                await trio.sleep(0.01)
        assert held() is None
