"""The engines that a bucket can be on; each test of the conformance suite runs on all of them."""

from __future__ import annotations

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


ENGINES = ["embedded"]


def opened_on(engine: str, place: Path, request: pytest.FixtureRequest) -> Open:
    """Opens an empty bucket on this engine, the same one every time."""
    match engine:
        case "embedded":
            return embedded(place)
    raise AssertionError(engine)
