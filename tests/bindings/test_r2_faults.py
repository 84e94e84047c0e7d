"""Faults of the embedded bucket: a killed process, a second process, a body larger than memory."""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
import trio
import trio.testing

from pyinterceptor import BindingError, R2Bucket
from pyinterceptor.bindings import database
from pyinterceptor.bindings.r2 import Bucket, ObjectBody, UploadedPart
from pyinterceptor.bindings.r2.stored import FileChunks
from tests.bindings.forked import Worker, worker
from tests.bindings.r2_worker import (
    CHUNK,
    GONE,
    LARGE,
    ONCE,
    TURNS,
    chunks,
    compete,
    tag_in,
    tag_of,
    tag_under,
    value_of,
)
from tests.socket.loopback import in_trio

WORKER = "tests.bindings.r2_worker"
KILLS = 100
CANCELLED = 100  # times
STEP = 0.0003  # seconds by which each cancellation is later, so that some come too early and some too late
FLAT = 48 * 1024 * 1024  # bytes of memory that a body of any size may take


def files_in(place: Path) -> set[str]:
    return {path.name for path in (place / "r2/BUCKET/objects").glob("*/*")}


def files_of_index(place: Path) -> tuple[set[str], set[str]]:
    """Returns the files of objects and parts, and the unowned ones."""
    with closing(sqlite3.connect(place / "r2/BUCKET/index.sqlite")) as index:
        owned = index.execute("SELECT file FROM objects UNION ALL SELECT file FROM parts").fetchall()
        unowned = index.execute("SELECT file FROM unowned").fetchall()
    return {file for (file,) in owned}, {file for (file,) in unowned}


class History:
    """The writes that were acknowledged to a killed process, and those it had begun."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}
        self.begun: dict[str, str] = {}
        self.upload: tuple[str, str] | None = None  # its id, and the tag of its object
        self.parts: list[UploadedPart] = []
        self.done = 0

    def hear(self, line: list[str]) -> None:
        match line:
            case ["begun", key, tag]:
                self.begun[key] = tag
            case ["done", key, tag]:
                self.kept[key] = tag
                del self.begun[key]
                self.done += 1
                if key == "parted":
                    self.upload, self.parts = None, []
            case ["upload", upload, tag]:
                self.upload = upload, tag
            case ["part", number, etag]:
                self.parts.append(UploadedPart(int(number), etag))

    async def compare(self, bucket: Bucket) -> None:
        """Asserts that each object is the acknowledged or the begun one, and that an upload still has all its parts."""
        for key in self.kept.keys() | self.begun.keys():
            tag = await tag_under(bucket, key)
            kept = self.kept.get(key, GONE)
            assert tag in (kept, self.begun.get(key, kept))
            self.kept[key] = tag
        if self.upload is not None and self.kept.get("parted") != self.upload[1]:
            resumed = bucket.resume_multipart_upload("parted", self.upload[0])
            if len(self.parts) == 2:
                await resumed.complete(self.parts)
                self.kept["parted"] = await tag_under(bucket, "parted")
                assert self.kept["parted"] == self.upload[1]
            else:
                await resumed.abort()
        assert {found.key for found in (await bucket.list()).objects} == {
            key for key, tag in self.kept.items() if tag != GONE
        }
        self.begun, self.upload, self.parts = {}, None, []


def test_a_killed_process_loses_no_acknowledged_write_and_leaves_none_half_done(tmp_path: Path) -> None:
    history, left_behind, resumed = History(), 0, 0

    async def open_and_compare() -> None:
        async with R2Bucket().open("BUCKET", tmp_path) as bucket:
            await history.compare(bucket)

    with worker(WORKER) as other:
        for turn in range(KILLS):
            other.kill("write_on", tmp_path, str(turn), history, random.randrange(1, 12))
            before = files_in(tmp_path)
            resumed += len(history.parts) == 2
            trio.run(open_and_compare)
            owned, unowned = files_of_index(tmp_path)
            assert files_in(tmp_path) == owned
            assert not unowned
            left_behind += bool(before - owned)
    # The kills hit unfinished files, and uploads with two parts.
    assert left_behind > KILLS / 2
    assert resumed


def run_job(other: Worker, job: str, place: object, argument: str = "-") -> list[list[str]]:
    other.begin(job, place, argument)
    *lines, ended = other.rest()
    assert ended == ["ended", "0"]
    return lines


@in_trio
async def test_two_processes_share_a_bucket(tmp_path: Path) -> None:
    mine: list[tuple[object, ...]] = []

    def heard(*words: object) -> None:
        mine.append(words)

    with worker(WORKER) as other:
        async with R2Bucket().open("BUCKET", tmp_path) as bucket:
            for key in ("ball", "wild"):
                await bucket.put(key, value_of(tag_of(key, "nobody", 0)))
            other.begin("compete", tmp_path, "theirs")
            await compete(bucket, "mine", heard)
            *theirs, ended = await trio.to_thread.run_sync(other.rest)
            assert ended == ["ended", "0"]
            assert ("played", TURNS) in mine
            assert ["played", str(TURNS)] in theirs
            created = {words[1]: "mine" for words in mine if words[0] == "created"}
            created_there = {int(words[1]): "theirs" for words in theirs if words[0] == "created"}
            assert created
            assert created_there
            assert not created.keys() & created_there.keys()
            for number in range(ONCE):
                found = await bucket.get(f"once{number}")
                assert isinstance(found, ObjectBody)
                assert await found.text() == (created | created_there)[number]
    assert files_in(tmp_path) == files_of_index(tmp_path)[0]


@in_trio
async def test_a_second_process_leaves_unfinished_files_of_the_first_alone(tmp_path: Path) -> None:
    written, go_on = trio.Event(), trio.Event()
    value = value_of("slow.first.0.3000000")

    async def slow() -> AsyncIterator[bytes]:
        yield value[: 8 * CHUNK]
        written.set()
        await go_on.wait()
        yield value[8 * CHUNK :]

    async def put(bucket: Bucket) -> None:
        await bucket.put("slow", slow())

    with worker(WORKER) as other:
        async with R2Bucket().open("BUCKET", tmp_path) as bucket, trio.open_nursery() as nursery:
            await bucket.put("there", "x")
            nursery.start_soon(put, bucket)
            await written.wait()
            half = files_in(tmp_path)
            lines = await trio.to_thread.run_sync(run_job, other, "look", tmp_path)
            assert lines == [["found", "there"]]
            assert files_in(tmp_path) == half
            assert len(half) == 2
            go_on.set()
        assert ["found", "slow"] in run_job(other, "look", tmp_path)
    async with R2Bucket().open("BUCKET", tmp_path) as bucket:
        assert await tag_under(bucket, "slow") == tag_in(value)


@in_trio
async def test_an_index_locked_by_another_process_is_504_and_no_file_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "PATIENCE", 0.3)
    async with R2Bucket().open("BUCKET", tmp_path) as bucket:
        await bucket.put("key", "old")
        there = files_in(tmp_path)
        with closing(sqlite3.connect(tmp_path / "r2/BUCKET/index.sqlite", isolation_level=None)) as other:

            async def locking() -> AsyncIterator[bytes]:
                yield bytes(8 * CHUNK)
                assert len(files_in(tmp_path)) == len(there) + 1  # the new one is being written
                other.execute("BEGIN IMMEDIATE")

            for value in (locking(), "as it is locked already"):
                with pytest.raises(BindingError, match="keeps the database locked") as caught:
                    await bucket.put("key", value)
                assert caught.value.status == 504
                assert files_in(tmp_path) == there
            found = await bucket.get("key")
            assert isinstance(found, ObjectBody)
            assert await found.text() == "old"
            other.execute("ROLLBACK")
        await bucket.put("key", "new")
        assert len(files_in(tmp_path)) == 1


def test_a_body_of_two_gigabytes_takes_no_more_memory_than_a_small_one(tmp_path: Path) -> None:
    with worker(WORKER) as other:
        before, put, got, after = run_job(other, "keep_large", tmp_path)
    assert put[:2] == ["put", str(LARGE)]
    assert got == ["got", str(LARGE), put[2]]
    assert int(after[1]) - int(before[1]) < FLAT
    assert [path.stat().st_size for path in (tmp_path / "r2/BUCKET/objects").glob("*/*")] == [LARGE]


@in_trio
async def test_a_cancelled_put_leaves_the_old_object_or_the_new_and_no_other_file(tmp_path: Path) -> None:
    whole = 0
    async with R2Bucket().open("BUCKET", tmp_path) as bucket:
        await bucket.put("key", value_of(tag_of("key", "old", 0)))
        for number in range(CANCELLED):
            before, tag = await tag_under(bucket, "key"), tag_of("key", "new", number, 1_500_000)
            with trio.move_on_after(number * STEP):
                await bucket.put("key", chunks(value_of(tag)))
            after = await tag_under(bucket, "key")
            assert after in (before, tag)
            whole += after == tag
            assert files_in(tmp_path) == files_of_index(tmp_path)[0]
    assert 0 < whole < CANCELLED
    assert not files_of_index(tmp_path)[1]


@in_trio
async def test_an_unread_body_closes_its_file(tmp_path: Path) -> None:
    """A body whose get was cancelled closes it as well: the fixture that counts descriptors fails otherwise."""
    async with R2Bucket().open("BUCKET", tmp_path) as bucket:
        await bucket.put("key", value_of("key.unread.0.1500000"))
        there = len(os.listdir("/proc/self/fd"))
        for number in range(CANCELLED):
            with trio.move_on_after(number * STEP / 100):
                await bucket.get("key")
        found = await bucket.get("key")
        assert isinstance(found, ObjectBody)
        async for _ in found.body:
            break
        assert len(os.listdir("/proc/self/fd")) > there  # open during the read
        await found.body.aclose()
        assert len(os.listdir("/proc/self/fd")) == there


@in_trio
async def test_a_body_closed_during_a_read_closes_its_file_after_the_read(tmp_path: Path) -> None:
    """The number of a closed descriptor can be reused for another file at once, which the thread would then read."""
    (tmp_path / "file").write_bytes(b"12345")
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    busy = trio.CapacityLimiter(1)
    busy.acquire_on_behalf_of_nowait("another reader")
    chunks = FileChunks(descriptor, 0, 5, busy)
    read: list[bytes] = []

    async def read_it() -> None:
        read.append(await anext(chunks))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_it)
        await trio.testing.wait_all_tasks_blocked()
        await chunks.aclose()
        assert os.fstat(descriptor).st_size == 5  # still open
        busy.release_on_behalf_of("another reader")
    assert read == [b"12345"]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
