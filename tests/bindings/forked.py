"""A second process, whose children a test can kill: it has all modules loaded and forks a child for each job.

A job is a line on its stdin, "NAME PLACE ARGUMENT". On stdout it writes "child PID", "open", the job's own lines, and
"ended STATUS".
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, Protocol

import trio

Say = Callable[..., None]
Job = Callable[[Any, str, Say], Awaitable[None]]  # (the resource opened at PLACE, ARGUMENT, Say)
Open = Callable[[str], AbstractAsyncContextManager[Any]]


class Worker:
    """The test's side of the process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def begin(self, job: str, place: object, argument: str = "-") -> int:
        """Begins a job. Returns the child's process id once the child has opened the resource at `place`."""
        assert self._process.stdin is not None
        print(job, place, argument, file=self._process.stdin, flush=True)
        child, pid = self.said()
        assert child == "child"
        assert self.said() == ["open"]
        return int(pid)

    def said(self) -> list[str]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the worker has died"
        return line.split("\t")[:-1]

    def rest(self) -> list[list[str]]:
        """Returns the lines written until the child has ended, including "ended STATUS"."""
        lines = [self.said()]
        while lines[-1][0] != "ended":
            lines.append(self.said())
        return lines

    def kill(self, job: str, place: object, argument: str, history: History, enough: int) -> None:
        """Begins a job, and kills it at a random moment after `enough` more steps. `history` gets all of its lines."""
        child = self.begin(job, place, argument)
        enough += history.done
        while history.done < enough:
            history.hear(self.said())
        time.sleep(random.random() / 200)  # a random moment of the next step
        os.kill(child, signal.SIGKILL)
        *lines, ended = self.rest()
        for line in lines:
            history.hear(line)
        assert ended == ["ended", str(int(signal.SIGKILL))]


class History(Protocol):
    """The steps that a killed process has completed, and those it had begun."""

    done: int

    def hear(self, line: list[str]) -> None: ...


@contextmanager
def worker(module: str) -> Iterator[Worker]:
    """Runs `module`, which must call `serve`, until the block ends."""
    argv = [sys.executable, "-m", module]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, start_new_session=True) as process:
        try:
            yield Worker(process)
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # the group: also a child that still runs


def serve(opened: Open, jobs: Mapping[str, Job]) -> None:
    """The process's side: runs jobs until stdin ends."""
    for line in sys.stdin:
        if pid := os.fork():
            say("child", pid)
            say("ended", os.waitpid(pid, 0)[1])
            continue
        try:
            trio.run(_run, opened, jobs, *line.split())
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)


async def _run(opened: Open, jobs: Mapping[str, Job], job: str, place: str, argument: str) -> None:
    async with opened(place) as resource:
        say("open")
        await jobs[job](resource, argument, say)


def say(*words: object) -> None:
    os.write(1, "".join(f"{word}\t" for word in words).encode() + b"\n")
