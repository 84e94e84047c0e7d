"""What a get may cost before it is refused."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from pyinterceptor import KV, BadArgument
from tests.socket.loopback import in_trio

SIZE = 10 * 1024 * 1024


@in_trio
async def test_of_values_that_are_too_large_together_few_are_read(tmp_path: Path) -> None:
    async with KV().open("KV", tmp_path) as kv:
        await kv.put("key", b"x" * SIZE)
        tracemalloc.start()
        try:
            with pytest.raises(BadArgument, match="together exceed"):
                await kv.get(["key"] * 20)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 5 * SIZE
