"""The engines that a KV can be on; each test of the conformance suite runs on all of them."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from pyinterceptor import KV
from pyinterceptor.bindings.kv import Namespace

Open = Callable[[], AbstractAsyncContextManager[Namespace]]


def embedded(place: Path) -> Open:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Namespace]:
        async with KV().open("KV", place) as kv:
            yield kv

    return opened


ENGINES = ["embedded", "redis", "redis cluster", "valkey", "valkey cluster"]
COUNTER = itertools.count(1)


def on_redis(url: str) -> Open:
    """The URL of a server that others use, too: what it holds under this prefix is ours alone."""
    declared = KV(f"{url}?prefix=t{next(COUNTER)}")

    @asynccontextmanager
    async def opened() -> AsyncIterator[Namespace]:
        async with declared.open("KV", Path("/nonexistent")) as kv:
            yield kv

    return opened


def opened_on(engine: str, place: Path, request: pytest.FixtureRequest) -> Open:
    """Opens an empty KV on this engine, the same one every time."""
    match engine:
        case "embedded":
            return embedded(place)
        case "redis" | "valkey":
            return on_redis(request.getfixturevalue(f"{engine}_server").url)
        case "redis cluster" | "valkey cluster":
            return on_redis(request.getfixturevalue(engine.replace(" ", "_"))[0].url)
    raise AssertionError(engine)
