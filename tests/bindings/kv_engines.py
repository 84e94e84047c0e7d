"""The engines of a KV. Each test of the conformance suite runs on all of them."""

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
    """Opens a KV on a server that other tests use as well, under a prefix of its own."""
    declared = KV(f"{url}?prefix=t{next(COUNTER)}")

    @asynccontextmanager
    async def opened() -> AsyncIterator[Namespace]:
        async with declared.open("KV", Path("/nonexistent")) as kv:
            yield kv

    return opened


def opened_on(engine: str, place: Path, request: pytest.FixtureRequest) -> Open:
    """Returns a function that opens a KV on this engine. The KV is empty at first, and the same one at each call."""
    match engine:
        case "embedded":
            return embedded(place)
        case "redis" | "valkey":
            return on_redis(request.getfixturevalue(f"{engine}_server").url)
        case "redis cluster" | "valkey cluster":
            return on_redis(request.getfixturevalue(engine.replace(" ", "_"))[0].url)
    raise AssertionError(engine)
