"""Blocking jobs on a dedicated thread, in order. Jobs that queue up during a turn are run together in the next one.

A turn costs one wake-up of the thread and one of Trio, however many jobs it has, and it can be one transaction. A
thread pool offers neither.
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
    """A job and the task that waits for it. `task` is None once the caller was cancelled.

    The turn defines the type of `do`: a function, or data.
    """

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
        """Waits for the turn of `do`, and returns or raises its outcome.

        A cancelled call returns at once. Its job is skipped if it hasn't begun; otherwise it completes and its result
        is dropped.
        """
        job = Job(do, trio.lowlevel.current_task())

        def abandon(_: object) -> trio.lowlevel.Abort:
            job.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._waiting.put(job)
        return await trio.lowlevel.wait_task_rescheduled(abandon)

    def work(self) -> None:
        """Runs on the thread: takes turns until `stop` is called."""
        while self._work():
            pass  # no local variable keeps the last turn's jobs: their outcomes may be large, or hold files open

    def _work(self) -> bool:
        """Waits for a job and takes one turn. Returns False if the thread is to end."""
        first = self._waiting.get()
        if first is None:
            return False
        taken, goes_on = self._taken(first)
        if jobs := [job for job in taken if job.task is not None]:
            self._take_turn(jobs)
            self._token.run_sync_soon(_tell, jobs)
        return goes_on

    def stop(self) -> None:
        """Ends the thread after all jobs that were queued before."""
        self._waiting.put(None)

    def _take_turn(self, jobs: Sequence[Job]) -> None:
        """Takes the turn. If it raises, every job of the turn fails with that error, and the thread goes on."""
        try:
            self._turn(jobs)
        except Exception as error:
            for job in jobs:
                job.outcome = outcome.Error(error)

    def _taken(self, first: Job) -> tuple[list[Job], bool]:
        """Returns `first` and the jobs queued behind it; False if `stop` was called after them."""
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
    """Starts a thread, which ends with the block. It calls `turn`, which sets the outcome of every job in the turn."""
    jobs = Jobs(turn)
    # A daemon thread: if Trio itself crashes, `stop` is never called, and the process must still exit.
    thread = threading.Thread(target=jobs.work, name="pyinterceptor-jobs", daemon=True)
    thread.start()
    try:
        yield jobs
    finally:
        jobs.stop()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(thread.join)


def each(jobs: Sequence[Job]) -> None:
    """A turn of independent functions: the outcome of one doesn't depend on another."""
    for job in jobs:
        job.outcome = outcome.capture(job.do)


def _tell(jobs: Sequence[Job]) -> None:
    for job in jobs:
        if job.task is not None:
            trio.lowlevel.reschedule(job.task, job.outcome)
