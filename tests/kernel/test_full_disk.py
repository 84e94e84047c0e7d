"""Resources on a full disk raise the documented error, keep their data, and work again once there is room."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from pyinterceptor import KV, BindingError, R2Bucket
from pyinterceptor.bindings.r2 import Bucket, ObjectBody
from tests.socket.loopback import in_trio
from tests.world.world import run

MIB = 1024 * 1024
SIZE = 32 * MIB  # bytes of the disk
PART = 5 * MIB  # bytes of an upload's part


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(tmp_path)])
    try:
        yield tmp_path
    finally:
        run(["umount", str(tmp_path)])


@in_trio
async def test_a_kv_on_a_full_disk_keeps_what_it_has_and_goes_on_when_there_is_room(disk: Path) -> None:
    async with KV().open("KV", disk) as kv:
        await kv.put("key", "old", metadata="old")
        kept = 0

        async def fill() -> None:
            nonlocal kept
            for number in range(SIZE // MIB + 1):
                await kv.put(f"filling{number}", bytes(MIB))
                kept += 1

        with pytest.raises(BindingError, match="KV KV: no space left on the disk") as caught:
            await fill()
        assert caught.value.status == 507
        with pytest.raises(BindingError):
            await kv.put("key", os.urandom(MIB), metadata="new")
        found = await kv.get_with_metadata("key")
        assert (found.value, found.metadata) == ("old", "old")
        assert len((await kv.list(prefix="filling")).keys) == kept
    async with KV().open("KV", disk) as kv:
        assert await kv.get("key") == "old"
        for number in range(kept):
            assert len(await kv.get(f"filling{number}", "bytes")) == MIB
        run(["mount", "-o", f"remount,size={4 * SIZE}", str(disk)])
        await kv.put("key", "new")
        assert await kv.get("key") == "new"


@pytest.mark.parametrize("size", [5 * MIB, MIB, 10_000])
@in_trio
async def test_on_a_disk_that_values_have_filled_they_and_objects_can_be_deleted(size: int, disk: Path) -> None:
    names: list[str] = []
    async with R2Bucket().open("BUCKET", disk) as bucket, KV().open("KV", disk) as kv:
        await bucket.put("key", "x")

        async def fill() -> None:
            while True:
                await kv.put(f"key{len(names)}", bytes(size))
                names.append(f"key{len(names)}")

        with pytest.raises(BindingError, match="no space left"):
            await fill()
        await bucket.delete("key")
        for name in names:
            await kv.delete(name)
        assert (await kv.list()).keys == []


# --- R2 ---------------------------------------------------------------------------------------------------------------


def used(disk: Path) -> int:
    """Returns the total size of the objects' files, in bytes."""
    return sum(path.stat().st_size for path in (disk / "r2/BUCKET/objects").glob("*/*"))


async def stream(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // MIB):
        await trio.lowlevel.checkpoint()
        yield bytes(MIB)


async def whole(bucket: Bucket, key: str) -> bytes:
    found = await bucket.get(key)
    assert isinstance(found, ObjectBody)
    return await found.bytes()


@in_trio
async def test_a_put_that_finds_the_disk_full_is_507_and_gives_its_space_back(disk: Path) -> None:
    async with R2Bucket().open("BUCKET", disk) as bucket:
        await bucket.put("key", b"old" * MIB)
        for key in ("key", "new"):
            with pytest.raises(BindingError, match="no space left") as caught:
                await bucket.put(key, stream(2 * SIZE))
            assert caught.value.status == 507
            assert used(disk) == 3 * MIB
        assert [found.key for found in (await bucket.list()).objects] == ["key"]
        assert await whole(bucket, "key") == b"old" * MIB
        await bucket.put("new", stream(SIZE // 2))
        assert len(await whole(bucket, "new")) == SIZE // 2


@in_trio
async def test_parts_that_find_the_disk_full_are_507_and_the_upload_goes_on(disk: Path) -> None:
    async with R2Bucket().open("BUCKET", disk) as bucket:
        await bucket.put("filler", stream(9 * MIB))
        upload = await bucket.create_multipart_upload("key")
        parts = [await upload.upload_part(1, stream(PART)), await upload.upload_part(2, stream(PART))]
        with pytest.raises(BindingError, match="no space left") as caught:
            await upload.upload_part(3, stream(4 * PART))
        assert caught.value.status == 507
        assert used(disk) == 9 * MIB + 2 * PART
        parts.append(await upload.upload_part(3, b"the last"))
        await bucket.put("more", stream(4 * MIB))
        with pytest.raises(BindingError, match="no space left") as caught:
            await upload.complete(parts)  # for a moment, it needs the space of the parts a second time
        assert caught.value.status == 507
        assert await bucket.head("key") is None
        await bucket.delete("filler")
        await upload.complete(parts)
        assert await whole(bucket, "key") == bytes(2 * PART) + b"the last"
        assert used(disk) == 4 * MIB + 2 * PART + len("the last")


@in_trio
async def test_who_has_filled_the_disk_with_objects_can_delete_them(disk: Path) -> None:
    """Deletion works for objects of any size, because the index still has room."""
    async with R2Bucket().open("BUCKET", disk) as bucket:
        keys: list[str] = []

        async def fill(size: int) -> None:
            while True:
                key = f"{size}.{len(keys)}"
                await bucket.put(key, bytes(size), custom_metadata={"m": "x" * 4000})
                keys.append(key)

        for size in (2 * MIB, 100_000, 1):
            with pytest.raises(BindingError, match="no space left"):
                await fill(size)
        for _ in range(200):
            with pytest.raises(BindingError, match="no space left"):
                await bucket.put("one more", "x")
        assert sorted(found.key for found in (await bucket.list()).objects) == sorted(keys)
        await bucket.delete(keys)
        assert used(disk) == 0
        await bucket.put("key", stream(SIZE // 2))
        assert used(disk) == SIZE // 2


@in_trio
async def test_with_not_a_byte_left_what_is_there_is_still_given(disk: Path) -> None:
    async with R2Bucket().open("BUCKET", disk) as bucket:
        await bucket.put("key", b"kept" * MIB, custom_metadata={"a": "b"})
        fill(disk / "filler")
        for number in range(3):
            with pytest.raises(BindingError, match="no space left") as caught:
                await bucket.put(f"new{number}", bytes(MIB), custom_metadata={"m": "x" * 8000})
            assert caught.value.status == 507
        assert await whole(bucket, "key") == b"kept" * MIB
        assert [found.key for found in (await bucket.list()).objects] == ["key"]
        assert used(disk) == 4 * MIB
        (disk / "filler").unlink()
        await bucket.put("key", "new")
        assert await whole(bucket, "key") == b"new"
    async with R2Bucket().open("BUCKET", disk) as bucket:
        assert await whole(bucket, "key") == b"new"
        assert used(disk) == 3


def fill(path: Path) -> None:
    with path.open("wb") as file:
        for size in (MIB, 4096):
            while True:
                try:
                    os.write(file.fileno(), bytes(size))
                except OSError:
                    break
