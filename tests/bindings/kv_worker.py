"""The jobs on a KV of a process that a test kills."""

from __future__ import annotations

import hashlib
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import trio

from pyinterceptor import KV
from pyinterceptor.bindings.kv import Namespace
from tests.bindings.forked import Say, serve

SIZES = [10, 3_000, 200_000, 2_000_000]  # bytes


def value_of(tag: str, size: int) -> bytes:
    """Returns a value that is not part of any other value."""
    return (f"{tag} {size} ".encode() + hashlib.sha256(tag.encode()).digest() * (size // 32 + 1))[: size + 40]


def tag_in(value: bytes) -> str:
    """Returns the tag of a value. Raises AssertionError if it isn't the whole value of a tag."""
    tag, size, _ = value.split(b" ", 2)
    assert value == value_of(tag.decode(), int(size))
    return tag.decode()


async def write_on(kv: Namespace, turn: str, say: Say) -> None:
    """Puts and deletes, with one task for each key, until the process is killed."""

    async def work(key: str) -> None:
        for number in range(10**6):
            tag = f"{key}.{turn}.{number}"
            say("begun", key, tag)
            await kv.put(key, value_of(tag, SIZES[number % len(SIZES)]), metadata=tag, expiration_ttl=1000)
            say("done", key, tag)
            if number % 5 == 4:
                say("begun", key, "-")
                await kv.delete(key)
                say("done", key, "-")

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(work, f"key{number}")


def opened(place: str) -> AbstractAsyncContextManager[Namespace]:
    """Opens the KV at `place`, a directory or a URL."""
    return (KV(place) if "://" in place else KV()).open("KV", Path(place))


if __name__ == "__main__":
    serve(opened, {"write_on": write_on})
