"""The engines of a bucket. Each test of the conformance suite runs on all of them."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from pyinterceptor import R2Bucket
from pyinterceptor.bindings.r2 import Bucket

Open = Callable[[], AbstractAsyncContextManager[Bucket]]


def embedded(place: Path) -> Open:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Bucket]:
        async with R2Bucket().open("BUCKET", place) as bucket:
            yield bucket

    return opened


ENGINES = ["embedded", "s3"]
COUNTER = itertools.count(1)


def on_s3(url: str) -> Open:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Bucket]:
        async with R2Bucket(url).open("BUCKET", Path("/nonexistent")) as bucket:
            yield bucket

    return opened


def opened_on(engine: str, place: Path, request: pytest.FixtureRequest) -> Open:
    """Returns a function that opens a bucket on this engine. It is empty at first, and the same one at each call."""
    match engine:
        case "embedded":
            return embedded(place)
        case "s3":
            server = request.getfixturevalue("s3_server")
            return on_s3(server.url("tests", f"t{next(COUNTER)}"))
    raise AssertionError(engine)
