"""Jobs on a thread, whatever becomes of a turn."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import pytest
import trio

from pyinterceptor.bindings.jobs import Job, each, open_jobs
from tests.socket.loopback import in_trio

DEADLINE = 5.0  # seconds


class Thing:
    """As a large value, or an open file."""


@in_trio
async def test_a_turn_that_fails_in_a_way_that_nobody_foresaw_is_told_and_the_next_is_taken() -> None:
    def turn(jobs: Sequence[Job]) -> None:
        if any(job.do == "bad" for job in jobs):
            raise RuntimeError("unforeseen")
        each(jobs)

    async with open_jobs(turn) as jobs:
        with trio.fail_after(DEADLINE):
            with pytest.raises(RuntimeError, match="unforeseen"):
                await jobs.run("bad")
            assert await jobs.run(lambda: "good") == "good"


@in_trio
async def test_a_thread_that_waits_holds_nothing_of_its_last_turn() -> None:
    async with open_jobs(each) as jobs:
        thing = await jobs.run(Thing)
        held = weakref.ref(thing)
        del thing
        with trio.move_on_after(DEADLINE):
            while held() is not None:  # noqa: ASYNC110  # the thread tells nobody
                await trio.sleep(0.01)
        assert held() is None
