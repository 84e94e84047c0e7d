"""A process beside the test's: it has everything loaded and forks a child for each job, which begins at once.

A job is a line on stdin, "NAME PLACE ARGUMENT". On stdout are "child PID", "open", what the job says, "ended STATUS".
"""

from __future__ import annotations

import hashlib
import os
import random
import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from pyinterceptor import R2Bucket
from pyinterceptor.bindings.r2 import Bucket, ObjectBody

PART = 5 * 1024 * 1024  # bytes of a part but the last
SIZES = [100, 70_000, 1_200_000, 3_000_000]  # bytes
CHUNK = 256 * 1024  # bytes
GONE = "-"
ONCE = 60
TURNS = 40
LARGE = 2 * 1024**3  # bytes

Say = Callable[..., None]


def tag_of(key: str, turn: str, number: int, size: int | None = None) -> str:
    """What a value says of itself."""
    name = f"{key}.{turn}.{number}"
    return f"{name}.{random.Random(name).choice(SIZES) if size is None else size}"


def value_of(tag: str) -> bytes:
    """No part of another value is this one."""
    size = int(tag.rpartition(".")[2])
    seed = hashlib.sha256(tag.encode()).digest() * 2048
    return (f"{tag} ".encode() + seed * (size // len(seed) + 1))[:size]


def tag_in(value: bytes) -> str:
    """Raises: AssertionError where it isn't the whole value of any tag."""
    tag = value.split(b" ", 1)[0].decode()
    assert value == value_of(tag), f"not a whole value, of {len(value)} bytes, that begins with {value[:80]!r}"
    return tag


async def tag_under(bucket: Bucket, key: str) -> str:
    found = await bucket.get(key)
    if found is None:
        return GONE
    assert isinstance(found, ObjectBody)
    value = await found.bytes()
    assert found.size == len(value)
    if "-" not in found.etag:
        assert found.etag == hashlib.md5(value).hexdigest()
    return tag_in(value)


async def chunks(value: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(value), CHUNK):
        yield value[at : at + CHUNK]


# --- jobs -----------------------------------------------------------------------------------------------------------


async def write_on(bucket: Bucket, turn: str, say: Say) -> None:
    """Puts, deletes and uploads in parts, each key by one task, until it is killed."""

    async def put(key: str) -> None:
        for number in range(10**6):
            tag = tag_of(key, turn, number)
            say("begun", key, tag)
            await bucket.put(key, chunks(value_of(tag)))
            say("done", key, tag)

    async def put_and_delete(key: str) -> None:
        for number in range(10**6):
            tag = tag_of(key, turn, number)
            say("begun", key, tag)
            await bucket.put(key, value_of(tag))
            say("done", key, tag)
            say("begun", key, GONE)
            await bucket.delete(key)
            say("done", key, GONE)

    async def upload(key: str) -> None:
        for number in range(10**6):
            tag = tag_of(key, turn, number, PART + 80_000)
            value = value_of(tag)
            one = await bucket.create_multipart_upload(key)
            say("upload", one.upload_id, tag)
            first = await one.upload_part(1, chunks(value[:PART]))
            say("part", 1, first.etag)
            second = await one.upload_part(2, value[PART:])
            say("part", 2, second.etag)
            say("begun", key, tag)
            await one.complete([first, second])
            say("done", key, tag)

    async with trio.open_nursery() as nursery:
        for key in ("one", "two", "three"):
            nursery.start_soon(put, key)
        nursery.start_soon(put_and_delete, "toggled")
        nursery.start_soon(upload, "parted")


async def compete(bucket: Bucket, who: str, say: Say) -> None:
    """Does with another process what each of them might do wrong."""

    async def create() -> None:
        """What nobody has created."""
        for number in random.Random(who).sample(range(ONCE), ONCE):
            if await bucket.put(f"once{number}", who, only_if={"etag_does_not_match": "*"}) is not None:
                say("created", number)

    async def play() -> None:
        """Overwrites what the other has written last."""
        turns = 0
        while turns < TURNS:
            if who not in await tag_under(bucket, "ball"):
                await bucket.put("ball", value_of(tag_of("ball", who, turns)))
                turns += 1
        say("played", turns)

    has_written = trio.Event()

    async def overwrite() -> None:
        """What both read and overwrite, so often that a file is gone between its look-up and its opening."""
        for number in range(2 * TURNS):
            await bucket.put("wild", value_of(tag_of("wild", who, number, 100)))
        has_written.set()

    async def read() -> None:
        while not has_written.is_set():
            await tag_under(bucket, "wild")

    async with trio.open_nursery() as nursery:
        for task in (create, play, overwrite, read):
            nursery.start_soon(task)


async def look(bucket: Bucket, _: str, say: Say) -> None:
    for found in (await bucket.list()).objects:
        say("found", found.key)


async def keep_large(bucket: Bucket, _: str, say: Say) -> None:
    """Puts and gets a body that is larger than memory should be."""
    block = os.urandom(CHUNK)

    async def stream() -> AsyncIterator[bytes]:
        for _ in range(LARGE // CHUNK):
            yield block

    say("peak", _peak())
    put = await bucket.put("large", stream())
    assert put is not None
    say("put", put.size, put.etag)
    found = await bucket.get("large")
    assert isinstance(found, ObjectBody)
    md5, size = hashlib.md5(), 0
    async for chunk in found.body:
        await trio.to_thread.run_sync(md5.update, chunk)
        size += len(chunk)
    say("got", size, md5.hexdigest())
    say("peak", _peak())


def _peak() -> int:
    """Bytes of memory that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


JOBS: dict[str, Callable[[Bucket, str, Say], Awaitable[None]]] = {
    job.__name__: job for job in (write_on, compete, look, keep_large)
}


# --- the process, and how a test has one ----------------------------------------------------------------------------


class Worker:
    """The test's side of it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def begin(self, job: str, place: Path, argument: str = "-") -> int:
        """Returns the child's process id, once it has opened the bucket."""
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
        """What is said until the child has ended, with how it did."""
        lines = [self.said()]
        while lines[-1][0] != "ended":
            lines.append(self.said())
        return lines


@contextmanager
def worker() -> Iterator[Worker]:
    argv = [sys.executable, "-m", "tests.bindings.r2_worker"]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, start_new_session=True) as process:
        try:
            yield Worker(process)
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # and a child that has not ended


def say(*words: object) -> None:
    os.write(1, "".join(f"{word}\t" for word in words).encode() + b"\n")


def _run(job: str, place: str, argument: str) -> None:
    async def main() -> None:
        async with R2Bucket().open("BUCKET", Path(place)) as bucket:
            say("open")
            await JOBS[job](bucket, argument, say)

    trio.run(main)


def _serve() -> None:
    for line in sys.stdin:
        if pid := os.fork():
            say("child", pid)
            say("ended", os.waitpid(pid, 0)[1])
            continue
        try:
            _run(*line.split())
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)


if __name__ == "__main__":
    _serve()
