"""The engines that a KV can be on; each test of the conformance suite runs on all of them."""

from __future__ import annotations

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


ENGINES = ["embedded"]


def opened_on(engine: str, place: Path, request: pytest.FixtureRequest) -> Open:
    """Opens an empty KV on this engine, the same one every time."""
    match engine:
        case "embedded":
            return embedded(place)
    raise AssertionError(engine)
