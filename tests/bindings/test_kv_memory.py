"""The memory that a get may use before it is refused."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from pyinterceptor import KV, BadArgument
from tests.socket.loopback import in_trio

SIZE = 10 * 1024 * 1024


@pytest.fixture(params=["embedded", "redis"])
def declared(request: pytest.FixtureRequest) -> KV:
    if request.param == "embedded":
        return KV()
    return KV(f"{request.getfixturevalue('redis_server').url}?prefix=memory")


@in_trio
async def test_values_that_are_too_large_together_are_not_all_read(declared: KV, tmp_path: Path) -> None:
    async with declared.open("KV", tmp_path) as kv:
        await kv.put("key", b"x" * SIZE)
        assert len((await kv.get(["key", "key"], "text"))["key"]) == SIZE
        tracemalloc.start()
        try:
            with pytest.raises(BadArgument, match="together exceed"):
                await kv.get(["key"] * 20)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        await kv.delete("key")
    assert peak < 5 * SIZE
