"""Blocking jobs on a thread of their own, in order; those that pile up meanwhile are done in one turn.

A turn costs one wake-up of the thread and one of Trio, however many jobs it has: that, and that a turn can be one
transaction, is what a thread pool doesn't give.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import outcome
import trio

MOST = 256  # jobs in a turn


class Job:
    """Something to do, as its turn understands it, and who waits for it; nobody does any more where `task` is None."""

    __slots__ = ("do", "outcome", "task")

    def __init__(self, do: Any, task: trio.lowlevel.Task) -> None:
        self.do = do
        self.task: trio.lowlevel.Task | None = task
        self.outcome: outcome.Outcome[Any]


Turn = Callable[[Sequence[Job]], None]


class Jobs:
    """Made by `open_jobs`."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._waiting: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._token = trio.lowlevel.current_trio_token()

    async def run(self, do: Any) -> Any:
        """The outcome of `do`, once its turn has come.

        Cancelled, it is not waited for: it isn't begun if it wasn't, else it is done and its result dropped.
        """
        job = Job(do, trio.lowlevel.current_task())

        def abandon(_: object) -> trio.lowlevel.Abort:
            job.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._waiting.put(job)
        return await trio.lowlevel.wait_task_rescheduled(abandon)

    def work(self) -> None:
        """The thread's: turn after turn, until told to stop."""
        while self._work():
            pass  # with nothing of the last turn in hand: its outcomes may be large, or hold files open

    def _work(self) -> bool:
        """One turn, once there is something to do; False at the end."""
        first = self._waiting.get()
        if first is None:
            return False
        taken, goes_on = self._taken(first)
        if jobs := [job for job in taken if job.task is not None]:
            self._take_turn(jobs)
            self._token.run_sync_soon(_tell, jobs)
        return goes_on

    def stop(self) -> None:
        """What came before is done yet."""
        self._waiting.put(None)

    def _take_turn(self, jobs: Sequence[Job]) -> None:
        """What a turn didn't foresee is told to all who wait for it: the thread goes on."""
        try:
            self._turn(jobs)
        except Exception as error:
            for job in jobs:
                job.outcome = outcome.Error(error)

    def _taken(self, first: Job) -> tuple[list[Job], bool]:
        """The jobs that are there; False where stopping was asked for behind them."""
        jobs = [first]
        with contextlib.suppress(queue.Empty):
            while len(jobs) < MOST:
                job = self._waiting.get_nowait()
                if job is None:
                    return jobs, False
                jobs.append(job)
        return jobs, True


@asynccontextmanager
async def open_jobs(turn: Turn) -> AsyncIterator[Jobs]:
    """`turn` gives every job of a turn its outcome; it runs on the thread, which ends with the block."""
    jobs = Jobs(turn)
    # A daemon: should Trio itself crash, nobody is left to stop it.
    thread = threading.Thread(target=jobs.work, name="pyinterceptor-jobs", daemon=True)
    thread.start()
    try:
        yield jobs
    finally:
        jobs.stop()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(thread.join)


def each(jobs: Sequence[Job]) -> None:
    """A turn of functions that have nothing to do with one another."""
    for job in jobs:
        job.outcome = outcome.capture(job.do)


def _tell(jobs: Sequence[Job]) -> None:
    for job in jobs:
        if job.task is not None:
            trio.lowlevel.reschedule(job.task, job.outcome)
