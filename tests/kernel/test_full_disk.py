"""Resources on a disk that is full: the documented error, what was kept stays, and it goes on when there is room."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyinterceptor import KV, BindingError
from tests.socket.loopback import in_trio
from tests.world.world import run

SIZE = 24 * 1024 * 1024  # bytes of the disk
VALUE = 1024 * 1024  # bytes


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(tmp_path)])
    yield tmp_path
    run(["umount", str(tmp_path)])


@in_trio
async def test_a_kv_on_a_full_disk_keeps_what_it_has_and_goes_on_when_there_is_room(disk: Path) -> None:
    async with KV().open("KV", disk) as kv:
        await kv.put("key", "old", metadata="old")
        kept = 0

        async def fill() -> None:
            nonlocal kept
            for number in range(SIZE // VALUE + 1):
                await kv.put(f"filling{number}", bytes(VALUE))
                kept += 1

        with pytest.raises(BindingError, match="KV KV: no space left on the disk") as caught:
            await fill()
        assert caught.value.status == 507
        with pytest.raises(BindingError):
            await kv.put("key", os.urandom(VALUE), metadata="new")
        found = await kv.get_with_metadata("key")
        assert (found.value, found.metadata) == ("old", "old")
        assert len((await kv.list(prefix="filling")).keys) == kept
    async with KV().open("KV", disk) as kv:
        assert await kv.get("key") == "old"
        for number in range(kept):
            assert len(await kv.get(f"filling{number}", "bytes")) == VALUE
        run(["mount", "-o", f"remount,size={4 * SIZE}", str(disk)])
        await kv.put("key", "new")
        assert await kv.get("key") == "new"
