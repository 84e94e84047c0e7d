"""Quotas of the embedded engines: bytes and entries, of a namespace and of each container in it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
import trio
import trio.testing

from pyinterceptor import KV, BindingError, PolicyError, Quota, R2Bucket
from pyinterceptor.bindings.quota import Quotas
from pyinterceptor.bindings.r2.engine import Labels
from pyinterceptor.bindings.r2.files import UNCHECKED, open_files
from tests.bindings.redis_servers import RedisServer
from tests.socket.loopback import in_trio

ONE, OTHER = "a1" * 32, "b2" * 32  # ids of containers
PART = 5 * 1024 * 1024
ROOM = Quota(64 * 1024 * 1024)


def sums(path: Path) -> dict[bytes, tuple[int, int]]:
    with closing(sqlite3.connect(path)) as database:
        return {row[0]: row[1:] for row in database.execute("SELECT owner, bytes, entries FROM usage")}


def objects(place: Path) -> list[Path]:
    return [one for one in (place / "r2" / "B" / "objects").glob("*/*") if one.is_file()]


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b"x" * 65536


@in_trio
async def test_a_kv_keeps_no_more_bytes_than_its_quota(tmp_path: Path) -> None:
    async with KV(quota=Quota(100)).open("KV", tmp_path) as kv:
        await kv.put("key", "x" * 97)
        with pytest.raises(BindingError, match="KV KV: the quota of 100 bytes is used up") as caught:
            await kv.put("b", "")
        assert caught.value.status == 507
        with pytest.raises(BindingError):
            await kv.put("key", "x" * 98)
        assert await kv.get("key") == "x" * 97
        await kv.put("key", "y")
        await kv.put("b", "x" * 50, metadata="m")
        await kv.delete("key")
        await kv.delete("b")
        await kv.put("key", "z" * 97)


@in_trio
async def test_a_kv_keeps_no_more_entries_than_its_quota(tmp_path: Path) -> None:
    async with KV(quota=Quota(1000, entries=2)).open("KV", tmp_path) as kv:
        await kv.put("a", "")
        await kv.put("b", "")
        await kv.put("a", "again")
        with pytest.raises(BindingError, match="2 entries"):
            await kv.put("c", "")
        await kv.delete("a")
        await kv.put("c", "")


@in_trio
async def test_a_container_that_fills_its_part_leaves_the_others_theirs(tmp_path: Path) -> None:
    async with KV(per_container=Quota(200, entries=2)).open("KV", tmp_path) as kv:
        await kv.put(f"{ONE}/a", "x" * 100)
        with pytest.raises(BindingError, match="the quota of the container of 200 bytes"):
            await kv.put(f"{ONE}/b", "x" * 100)
        await kv.put(f"{OTHER}/a", "x" * 100)
        await kv.put("shared", "x" * 1000)
        await kv.delete(f"{ONE}/a")
    assert sums(tmp_path / "kv" / "KV.sqlite") == {b"": (66 + 100 + 1006, 2), OTHER.encode(): (166, 1)}


@in_trio
async def test_expired_entries_take_no_room(tmp_path: Path) -> None:
    async with KV(quota=Quota(10_000, entries=50)).open("KV", tmp_path) as kv:
        for number in range(50):
            await kv.put(str(number), "x", expiration_ttl=60)
        with pytest.raises(BindingError):
            await kv.put("new", "x" * 9900)
        with closing(sqlite3.connect(tmp_path / "kv" / "KV.sqlite")) as database, database:
            database.execute("UPDATE entries SET expiration = 1")
        await kv.put("new", "x" * 9900)
    assert sums(tmp_path / "kv" / "KV.sqlite")[b""] == (9903, 1)


@in_trio
async def test_entries_that_were_never_counted_are_counted_at_start(tmp_path: Path) -> None:
    async with KV().open("KV", tmp_path) as kv:
        await kv.put(f"{ONE}/a", "x" * 10)
        await kv.put("b", "x" * 9)
    path = tmp_path / "kv" / "KV.sqlite"
    with closing(sqlite3.connect(path)) as database, database:
        for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f"DROP TRIGGER {name}")
        database.execute("DROP TABLE usage")
    async with KV(quota=Quota(86)).open("KV", tmp_path) as kv:
        assert sums(path) == {b"": (86, 2), ONE.encode(): (76, 1)}
        with pytest.raises(BindingError):
            await kv.put("c", "")


@in_trio
async def test_a_bucket_keeps_no_more_than_its_quota_and_no_file_of_a_refused_put(tmp_path: Path) -> None:
    async with R2Bucket(quota=Quota(4 * 1024 * 1024, entries=2)).open("B", tmp_path) as bucket:
        await bucket.put("a", "small")
        with pytest.raises(BindingError, match="R2 B: the quota of 4194304 bytes is used up") as caught:
            await bucket.put("b", endless())  # stopped while it is written
        assert caught.value.status == 507
        assert len(objects(tmp_path)) == 1
        await bucket.put("b", b"x" * 3 * 1024 * 1024)
        await bucket.put("b", b"y" * 3 * 1024 * 1024)  # in its place
        with pytest.raises(BindingError, match="2 entries"):
            await bucket.put("c", "")
        assert len(objects(tmp_path)) == 2
        await bucket.delete(["a", "b"])
        await bucket.put("c", "")


@in_trio
async def test_an_upload_counts_for_the_container_of_its_key(tmp_path: Path) -> None:
    async with R2Bucket(per_container=Quota(2 * PART + 1024, entries=2)).open("B", tmp_path) as bucket:
        upload = await bucket.create_multipart_upload(f"{ONE}/a")
        done = [await upload.upload_part(number, b"x" * PART) for number in (1, 2)]
        with pytest.raises(BindingError, match="of the container"):
            await upload.upload_part(3, b"x" * 2048)
        with pytest.raises(BindingError, match="of the container"):
            await bucket.put(f"{ONE}/b", b"x" * 2048)
        await bucket.put(f"{OTHER}/b", b"x" * 2048)
        assert (await upload.complete(done)).size == 2 * PART
        await bucket.delete(f"{ONE}/a")
        await bucket.put(f"{ONE}/b", b"x" * 2048)
    assert set(sums(tmp_path / "r2" / "B" / "index.sqlite")) == {b"", ONE.encode(), OTHER.encode()}


@in_trio
async def test_the_space_of_an_abandoned_upload_is_given_back_while_the_bucket_is_open(tmp_path: Path) -> None:
    async with R2Bucket(quota=ROOM).open("B", tmp_path) as bucket:
        kept = await bucket.create_multipart_upload("a")
        await kept.upload_part(1, b"x" * 1000)
        await bucket.put("b", "")
        assert len(objects(tmp_path)) == 2
    async with R2Bucket(quota=ROOM, uploads_kept=0.0).open("B", tmp_path) as bucket:
        upload = await bucket.create_multipart_upload("a")
        with closing(sqlite3.connect(tmp_path / "r2" / "B" / "index.sqlite")) as database, database:
            database.execute("UPDATE uploads SET begun = 1")
        await bucket.put("c", "")
        with pytest.raises(BindingError, match="no such multipart upload"):
            await upload.upload_part(1, b"x")
        assert len(objects(tmp_path)) == 2
    assert sums(tmp_path / "r2" / "B" / "index.sqlite")[b""][1] == 2


@in_trio
async def test_a_put_that_commits_during_a_check_counts_once(tmp_path: Path) -> None:
    committed, reached, gate = trio.Event(), trio.Event(), threading.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"x" * 2 * UNCHECKED
        reached.set()
        await committed.wait()

    async def fast() -> AsyncIterator[bytes]:
        reached.set()
        yield b"x" * 2 * UNCHECKED

    quotas = Quotas("R2 B", Quota(5 * UNCHECKED), None)
    async with open_files(tmp_path / "B", quotas, 3600.0) as engine, trio.open_nursery() as nursery:
        first = trio.Event()

        async def put_slowly() -> None:
            await engine.put("a", slow(), Labels(), None, None)
            first.set()

        nursery.start_soon(put_slowly)
        await reached.wait()
        reached = trio.Event()
        nursery.start_soon(engine._database.read, lambda _: gate.wait(60))
        nursery.start_soon(engine.put, "b", fast(), Labels(), None, None)
        await reached.wait()
        await trio.testing.wait_all_tasks_blocked()  # the check of "b" waits for its turn
        committed.set()
        await first.wait()
        gate.set()
    async with R2Bucket(quota=Quota(5 * UNCHECKED)).open("C", tmp_path) as bucket:
        await bucket.put("a", b"x" * 3 * UNCHECKED)
        with pytest.raises(BindingError, match="used up"):
            await bucket.put("b", b"x" * 3 * UNCHECKED)


@in_trio
async def test_a_part_is_uploaded_again_in_the_place_of_the_old_one(tmp_path: Path) -> None:
    async with R2Bucket(quota=Quota(2 * PART)).open("B", tmp_path) as bucket:
        upload = await bucket.create_multipart_upload("a")
        for number in (1, 1):
            await upload.upload_part(number, b"x" * (PART + 1024))
        with pytest.raises(BindingError, match="used up"):
            await upload.upload_part(2, b"x" * PART)


WARNING = "its server doesn't count, so the quota isn't enforced; set a limit on the server"


@in_trio
async def test_a_quota_of_a_kv_on_a_server_is_reported_at_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        for given, messages in [
            (KV(server.url), []),
            (KV(server.url, quota=Quota(1)), [f"KV K: {WARNING}"]),
            (KV(server.url, per_container=Quota(1)), [f"KV K: {WARNING}"]),
        ]:
            caplog.clear()
            async with given.open("K", tmp_path) as kv:
                await kv.put("key", "xyz")
            assert [one for one in caplog.messages if "quota" in one] == messages


@in_trio
async def test_a_quota_of_a_bucket_on_a_server_is_reported_at_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for given, messages in [
        (R2Bucket("s3://"), []),
        (R2Bucket("s3://", quota=Quota(1)), [f"R2 B: {WARNING}"]),
        (R2Bucket("s3://", per_container=Quota(1)), [f"R2 B: {WARNING}"]),
    ]:
        caplog.clear()
        with pytest.raises(PolicyError):  # the URL has no bucket: nothing is dialled
            async with given.open("B", tmp_path):
                pass
        assert [one for one in caplog.messages if "quota" in one] == messages


def test_a_quota_stays_with_a_binding_that_is_configured() -> None:
    assert KV(quota=Quota(1)).configured("redis://h").quota == Quota(1)
    assert R2Bucket(per_container=Quota(1)).configured("s3://bucket").per_container == Quota(1)


@pytest.mark.parametrize("wrong", [-1, 1.5, "1", True])
def test_a_quota_that_is_no_number_is_refused(wrong: int) -> None:
    with pytest.raises(PolicyError, match="Quota"):
        Quota(wrong)
