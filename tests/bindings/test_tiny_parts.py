"""A body in tiny parts, as a container may send it, costs no more memory than its bytes."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

from pyinterceptor import KV, R2Bucket
from tests.socket.loopback import in_trio

SIZE = 1024 * 1024 - 2  # bytes; just below one piece of an object


async def tiny(peak: list[int]) -> AsyncIterator[bytes]:
    """Yields parts of two bytes, none of them an object that Python caches; then records the memory they take."""
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(SIZE // 2):
            yield number.to_bytes(4, "little")[:2]
        peak.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()


@in_trio
async def test_an_object_of_tiny_parts_costs_no_more_memory(tmp_path: Path) -> None:
    peak: list[int] = []
    async with R2Bucket().open("BUCKET", tmp_path) as bucket:
        await bucket.put("key", tiny(peak))
        found = await bucket.head("key")
        assert found is not None
        assert found.size == SIZE
    assert peak[0] < 2 * SIZE


@in_trio
async def test_a_value_of_tiny_parts_costs_no_more_memory(tmp_path: Path) -> None:
    peak: list[int] = []
    async with KV().open("KV", tmp_path) as kv:
        await kv.put("key", tiny(peak))
        assert len(await kv.get("key", type="bytes")) == SIZE
    assert peak[0] < 2 * SIZE
