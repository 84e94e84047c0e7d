"""Faults of a bucket on S3, and its use beside other users of the same store."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
import trio

from pyinterceptor import BadArgument, PolicyError, R2Bucket
from pyinterceptor.bindings.r2 import Bucket, HttpMetadata, ObjectBody
from tests.bindings.faults import fails
from tests.bindings.forked import worker
from tests.bindings.r2_worker import LARGE, ONCE, TURNS, chunks, compete, tag_of, value_of
from tests.bindings.s3_server import SECRET, S3Server
from tests.bindings.test_r2_faults import FLAT, KILLS, WORKER, History, run_job
from tests.socket.loopback import in_trio

METADATA_SERVICE = "169.254.169.254"
MIB = 1024 * 1024


@asynccontextmanager
async def on(url: str) -> AsyncIterator[Bucket]:
    async with R2Bucket(url).open("BUCKET", Path("/nonexistent")) as bucket:
        yield bucket


async def opens(url: str) -> None:
    async with on(url):
        pass


async def text_of(bucket: Bucket, key: str) -> str | None:
    found = await bucket.get(key)
    if found is None:
        return None
    assert isinstance(found, ObjectBody)
    return await found.text()


def uploads_left(server: S3Server, prefix: str) -> list[str]:
    with closing(server.client()) as client:
        found = client.list_multipart_uploads(Bucket="tests", Prefix=prefix)
    return [one["Key"] for one in found.get("Uploads", ())]


# --- opening --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3://b",
        "s3://UPPER",
        "s3://key:secret@bucket",
        "s3://bucket?endpoint=localhost:9000",
        "s3://bucket?endpoint=ftp://localhost",
        "s3://bucket?endpoint=http://user:pass@localhost",
        "s3://bucket?endpoint=http://localhost:99999",
        "s3://bucket?endpoint=",
        "s3://bucket?endpoint=http://a&endpoint=http://b",
        "s3://bucket?secret=x",
        "s3://bucket?x",
        "s3://bucket#x",
        "http://bucket",
    ],
)
@in_trio
async def test_a_wrong_url_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(PolicyError) as caught:
        await opens(url)
    assert "secret" not in str(caught.value)
    assert "pass" not in str(caught.value)


@in_trio
async def test_a_missing_or_foreign_bucket_fails_when_it_is_opened(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    await opens(s3_server.url("tests"))
    assert "not found" in str(await fails(lambda: opens(s3_server.url("nobodys-bucket")), 503))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET.upper())
    error = await fails(lambda: opens(s3_server.url("tests")), 503)
    assert "access denied" in str(error)
    assert SECRET.upper() not in f"{error!r} {error.__cause__!r} {error.__context__!r}"


@in_trio
async def test_missing_credentials_are_not_requested_from_the_metadata_service(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In a cloud, the metadata service would return the machine's own credentials."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    await trio.run_process(["ip", "address", "add", f"{METADATA_SERVICE}/32", "dev", "lo"])
    try:
        with socket.create_server((METADATA_SERVICE, 80)) as service:
            service.setblocking(False)
            assert "no credentials" in str(await fails(lambda: opens(s3_server.url("tests")), 503))
            with pytest.raises(BlockingIOError):
                service.accept()
            with socket.create_connection((METADATA_SERVICE, 80), timeout=5):  # the control: the service is reachable
                service.accept()[0].close()
    finally:
        with trio.CancelScope(shield=True):
            await trio.run_process(["ip", "address", "delete", f"{METADATA_SERVICE}/32", "dev", "lo"])


# --- a store that is down, hangs, or ends during a call -------------------------------------------------------------


def calls(bucket: Bucket) -> dict[str, Callable[[], Awaitable[Any]]]:
    upload = bucket.resume_multipart_upload("key", "2~some")
    return {
        "head": lambda: bucket.head("key"),
        "get": lambda: bucket.get("key"),
        "get some": lambda: bucket.get("key", range={"offset": 1}),
        "put": lambda: bucket.put("key", "new"),
        "put nothing": lambda: bucket.put("key", ""),
        "put if": lambda: bucket.put("key", "new", only_if={"etag_matches": "*"}),
        "put parts": lambda: bucket.put("key", chunks(bytes(17 * MIB))),
        "delete": lambda: bucket.delete("key"),
        "delete many": lambda: bucket.delete(["key", "other"]),
        "list": lambda: bucket.list(),
        "begin": lambda: bucket.create_multipart_upload("key"),
        "upload": lambda: upload.upload_part(1, "x"),
        "complete": lambda: upload.complete([{"part_number": 1, "etag": "x"}]),
        "abort": lambda: upload.abort(),
    }


@in_trio
async def test_a_store_that_is_down_fails_at_once_and_works_again_once_it_is_back(s3_server: S3Server) -> None:
    url = s3_server.url("tests", "down")
    async with on(url) as bucket:
        await bucket.put("key", "old")
        with s3_server.down():
            for call in calls(bucket).values():
                await fails(call, 503)
            await fails(lambda: opens(url), 503)
        assert await text_of(bucket, "key") == "old"
        await bucket.put("key", "new")
        assert await text_of(bucket, "key") == "new"


@in_trio
async def test_calls_to_a_hanging_store_fail_in_time_and_change_nothing_when_it_resumes(s3_server: S3Server) -> None:
    async with AsyncExitStack() as stack:
        buckets: dict[str, Bucket] = {}
        for method in calls(Bucket(Any)):
            url = s3_server.url("tests", f"hangs-{method.replace(' ', '-')}")
            bucket = buckets[method] = await stack.enter_async_context(on(url))
            await bucket.put("key", "old")
        with s3_server.stopped():
            async with trio.open_nursery() as nursery:
                for method, bucket in buckets.items():
                    nursery.start_soon(fails, calls(bucket)[method], 504)
        with trio.move_on_after(2):  # enough to carry out pending requests: each takes it milliseconds
            while True:
                for method, bucket in buckets.items():
                    assert await text_of(bucket, "key") == "old", method


@in_trio
async def test_a_hanging_store_does_not_carry_out_upload_requests_later(s3_server: S3Server) -> None:
    async with on(s3_server.url("tests", "late")) as bucket:
        upload = await bucket.create_multipart_upload("key")
        asked: list[Callable[[], Awaitable[Any]]] = [
            upload.abort,
            lambda: upload.upload_part(2, ""),
            lambda: bucket.create_multipart_upload("other"),
            lambda: bucket.put("large", chunks(bytes(17 * MIB))),
        ]
        with s3_server.stopped():
            async with trio.open_nursery() as nursery:
                for call in asked:
                    nursery.start_soon(fails, call, 504)
        with trio.move_on_after(2):
            while True:
                assert await trio.to_thread.run_sync(uploads_left, s3_server, "late/") == ["late/key"]
        with closing(s3_server.client()) as client:
            found = client.list_parts(Bucket="tests", Key="late/key", UploadId=upload.upload_id)
        assert found.get("Parts", []) == []
        await upload.complete([await upload.upload_part(1, "part")])
        assert await text_of(bucket, "key") == "part"


@in_trio
async def test_a_truncated_body_raises_instead_of_ending_early(s3_server: S3Server) -> None:
    async with on(s3_server.url("tests", "cut")) as bucket:
        await bucket.put("key", chunks(bytes(40 * MIB)))
        found = await bucket.get("key")
        assert isinstance(found, ObjectBody)
        body = aiter(found.body)
        assert await anext(body)
        with s3_server.down():

            async def rest() -> None:
                async for _ in body:
                    pass

            await fails(rest, 503)
            await found.body.aclose()


@in_trio
async def test_a_put_interrupted_by_the_end_of_the_store_leaves_the_old_object(s3_server: S3Server) -> None:
    async with on(s3_server.url("tests", "dies")) as bucket:
        await bucket.put("key", "old")
        server_is_down = trio.Event()
        go_on = trio.Event()

        async def content() -> AsyncIterator[bytes]:
            for number in range(20):
                if number == 12:
                    server_is_down.set()
                    await go_on.wait()
                yield bytes(MIB)

        async def put() -> None:
            await fails(lambda: bucket.put("key", content()), 503)
            put_has_failed.set()

        put_has_failed = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(put)
            await server_is_down.wait()
            with s3_server.down():
                go_on.set()
                await put_has_failed.wait()
        assert await text_of(bucket, "key") == "old"


@in_trio
async def test_a_cancelled_or_failed_put_leaves_the_old_object_and_no_parts(s3_server: S3Server) -> None:
    async with on(s3_server.url("tests", "cancelled")) as bucket:
        await bucket.put("key", "old")
        begun = trio.Event()

        async def endless() -> AsyncIterator[bytes]:
            for _ in range(20):
                yield bytes(MIB)
            assert uploads_left(s3_server, "cancelled") == ["cancelled/key"]
            begun.set()
            await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(bucket.put, "key", endless())
            await begun.wait()
            nursery.cancel_scope.cancel()
        with pytest.raises(BadArgument, match=r"\(10037\)"):
            await bucket.put("key", chunks(bytes(20 * MIB)), sha256=bytes(32))
        assert await text_of(bucket, "key") == "old"
        assert uploads_left(s3_server, "cancelled") == []


@in_trio
async def test_an_unread_body_closes_its_connection(s3_server: S3Server) -> None:
    async with on(s3_server.url("tests", "unread")) as bucket:
        await bucket.put("key", chunks(bytes(10 * MIB)))
        there = len(os.listdir("/proc/self/fd"))
        bodies = []
        for _ in range(30):  # more than the threads, or the connections in the pool
            found = await bucket.get("key")
            assert isinstance(found, ObjectBody)
            bodies.append(found.body)
        assert len(os.listdir("/proc/self/fd")) > there + 20
        for body in bodies:
            await body.aclose()
        assert len(os.listdir("/proc/self/fd")) <= there + 1


# --- killed, shared, large ------------------------------------------------------------------------------------------


def test_a_killed_process_loses_no_acknowledged_write_and_leaves_none_half_done(s3_server: S3Server) -> None:
    url = s3_server.url("tests", "killed")

    async def main() -> None:
        history, begun = History(), 0
        with worker(WORKER) as other:
            async with on(url) as bucket:
                for turn in range(KILLS):
                    with s3_server.settled():
                        other.kill("write_in_parts_on", url, str(turn), history, random.randrange(1, 12))
                    begun += len(history.begun)
                    await history.compare(bucket)
        assert begun > KILLS

    trio.run(main)


@in_trio
async def test_two_processes_share_a_bucket(s3_server: S3Server) -> None:
    url = s3_server.url("tests", "shared")
    created: set[int] = set()

    def heard(*words: Any) -> None:
        if words[0] == "created":
            created.add(words[1])

    with worker(WORKER) as other:
        async with on(url) as bucket:
            for key in ("ball", "wild"):
                await bucket.put(key, value_of(tag_of(key, "nobody", 0)))
            other.begin("compete", url, "theirs")
            await compete(bucket, "mine", heard)
            *theirs, ended = await trio.to_thread.run_sync(other.rest)
            assert ended == ["ended", "0"]
            assert ["played", str(TURNS)] in theirs
            created_there = {int(words[1]) for words in theirs if words[0] == "created"}
            assert created
            assert created_there
            assert not created & created_there
            for number in range(ONCE):
                assert await text_of(bucket, f"once{number}") == ("mine" if number in created else "theirs")


def test_a_body_of_two_gigabytes_takes_no_more_memory_than_a_small_one(s3_server: S3Server) -> None:
    url = s3_server.url("tests", "two-gigabytes")
    with worker(WORKER) as other:
        before, put, got, after = run_job(other, "keep_large", url)

    async def remove() -> None:
        async with on(url) as bucket:
            await bucket.delete("large")

    trio.run(remove)
    assert put[:2] == ["put", str(LARGE)]
    assert got[:2] == ["got", str(LARGE)]
    assert int(after[1]) - int(before[1]) < FLAT


# --- other users of the store ---------------------------------------------------------------------------------------


@in_trio
async def test_an_object_of_another_tool_is_read_with_its_metadata(s3_server: S3Server) -> None:
    async with on(s3_server.url("tests", "other")) as bucket:
        with closing(s3_server.client()) as client:
            metadata = {"who": "me", "what": "=?UTF-8?B?w7w=?=", "odd": "=?UTF-8?B?%%%?=", "pyinterceptor": "[not ours"}
            client.put_object(
                Bucket="tests", Key="other/key", Body=b"theirs", ContentType="text/plain", Metadata=metadata
            )
        found = await bucket.head("key")
        assert found is not None
        assert found.http_metadata == HttpMetadata("text/plain")
        assert found.custom_metadata["who"] == "me"
        assert found.custom_metadata["what"] == "ü"
        assert found.version
        assert await text_of(bucket, "key") == "theirs"
        assert [one.key for one in (await bucket.list()).objects] == ["key"]


@in_trio
async def test_a_prefix_is_optional_and_hides_all_other_keys(
    s3_server: S3Server,
) -> None:
    async with on(s3_server.url("alone")) as whole, on(s3_server.url("alone", "some")) as some:
        await whole.put("outside", "x")
        await whole.put("some-where", "x")
        await some.put("inside", "x", custom_metadata={"a": "b"})
        assert [one.key for one in (await some.list()).objects] == ["inside"]
        assert [one.key for one in (await whole.list()).objects] == ["outside", "some-where", "some/inside"]
        assert await some.head("outside") is None
        with closing(s3_server.client()) as client:  # other tools find the key and the metadata in plain form
            assert client.head_object(Bucket="alone", Key="some/inside")["Metadata"]["a"] == "b"


@in_trio
async def test_many_keys_with_any_characters_are_deleted(s3_server: S3Server) -> None:
    async with on(s3_server.url("tests", "many")) as bucket:
        keys = ["a\rb", "a\x01b", "<&>", "￾", "😀", *(f"key{number}" for number in range(30))]
        async with trio.open_nursery() as nursery:
            for key in keys:
                nursery.start_soon(bucket.put, key, "x")
        assert {one.key for one in (await bucket.list()).objects} == set(keys)
        await bucket.delete(keys)
        assert (await bucket.list()).objects == []


@in_trio
async def test_a_put_in_several_parts_obeys_its_condition_where_the_store_supports_it(
    s3_server: S3Server,
) -> None:
    async with on(s3_server.url("tests", "bound")) as bucket:
        first = await bucket.put("key", chunks(bytes(17 * MIB)), only_if={"etag_does_not_match": "*"})
        assert first is not None
        async with aclosing(chunks(bytes(17 * MIB))) as unread:  # type: ignore[type-var]
            assert await bucket.put("key", unread, only_if={"etag_does_not_match": "*"}) is None
        second = await bucket.put("key", chunks(bytes(18 * MIB)), only_if={"etag_matches": first.etag})
        assert second is not None
        found = await bucket.head("key")
        assert found is not None
        assert (found.etag, found.size, found.version) == (second.etag, 18 * MIB, second.version)
        assert uploads_left(s3_server, "bound") == []
