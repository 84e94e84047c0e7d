"""The jobs on a bucket of a second process, which ends by itself or is killed."""

from __future__ import annotations

import hashlib
import os
import random
import resource
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import trio

import pyinterceptor.bindings.r2.s3  # noqa: F401  # loaded once, before the forks
from pyinterceptor import R2Bucket
from pyinterceptor.bindings.r2 import Bucket, ObjectBody
from tests.bindings.forked import Say, serve

PART = 5 * 1024 * 1024  # bytes of each part but the last
SIZES = [100, 70_000, 1_200_000, 3_000_000]  # bytes
CHUNK = 256 * 1024  # bytes
GONE = "-"
ONCE = 60
TURNS = 40
LARGE = 2 * 1024**3  # bytes


def tag_of(key: str, turn: str, number: int, size: int | None = None) -> str:
    """Returns the text that a value begins with, from which the whole value follows."""
    name = f"{key}.{turn}.{number}"
    return f"{name}.{random.Random(name).choice(SIZES) if size is None else size}"


def value_of(tag: str) -> bytes:
    """Returns a value that is not part of any other value."""
    size = int(tag.rpartition(".")[2])
    seed = hashlib.sha256(tag.encode()).digest() * 2048
    return (f"{tag} ".encode() + seed * (size // len(seed) + 1))[:size]


def tag_in(value: bytes) -> str:
    """Returns the tag of a value. Raises AssertionError if it isn't the whole value of a tag."""
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
    """Puts, deletes and uploads in parts, with one task for each key, until the process is killed."""

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
    """Competes with another process that runs this job for creations, conditional overwrites and deleted files."""

    async def create() -> None:
        """Creates objects only if they are missing."""
        for number in random.Random(who).sample(range(ONCE), ONCE):
            if await bucket.put(f"once{number}", who, only_if={"etag_does_not_match": "*"}) is not None:
                say("created", number)

    async def play() -> None:
        """Overwrites an object only if the other process wrote it last."""
        turns = 0
        while turns < TURNS:
            if who not in await tag_under(bucket, "ball"):
                await bucket.put("ball", value_of(tag_of("ball", who, turns)))
                turns += 1
        say("played", turns)

    has_written = trio.Event()

    async def overwrite() -> None:
        """Overwrites an object that both processes read, so often that a file disappears between its lookup and its
        opening."""
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
    """Puts and gets a body that is larger than the memory the process may use."""
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
    """Returns the peak of this process's resident memory, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


async def write_in_parts_on(bucket: Bucket, turn: str, say: Say) -> None:
    """Puts values that a remote engine uploads in parts, until the process is killed."""

    async def put(key: str) -> None:
        for number in range(10**6):
            tag = tag_of(key, turn, number, 9_000_000)
            say("begun", key, tag)
            await bucket.put(key, chunks(value_of(tag)))
            say("done", key, tag)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write_on, bucket, turn, say)
        nursery.start_soon(put, "large")


def opened(place: str) -> AbstractAsyncContextManager[Bucket]:
    """Opens the bucket at `place`, a directory or a URL."""
    return (R2Bucket(place) if "://" in place else R2Bucket()).open("BUCKET", Path(place))


if __name__ == "__main__":
    serve(opened, {job.__name__: job for job in (write_on, write_in_parts_on, compete, look, keep_large)})
