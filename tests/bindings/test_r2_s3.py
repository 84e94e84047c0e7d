"""A bucket in a store that speaks S3, where things go wrong: killed, hanging, down, cut off, not ours."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from pyinterceptor import BindingError, PolicyError, R2Bucket
from pyinterceptor.bindings.r2 import Bucket, ObjectBody
from pyinterceptor.bindings.r2.s3_client import ATTEMPTS, READ
from tests.bindings.forked import worker
from tests.bindings.r2_worker import GONE, tag_under
from tests.bindings.s3_server import BUCKET, ENVIRONMENT, S3Server
from tests.bindings.test_r2_faults import History
from tests.socket.loopback import in_trio

KILLS = 100
DEADLINE = READ * ATTEMPTS + 5  # seconds: the pause between two attempts, and a slow machine
LARGE = 20 * 1024 * 1024  # bytes


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """One of the test's own, which it may end."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with S3Server(tmp_path) as started:
        yield started


@asynccontextmanager
async def on(url: str) -> AsyncIterator[Bucket]:
    async with R2Bucket(url).open("BUCKET", Path("/nonexistent")) as bucket:
        yield bucket


async def fails(call: Callable[[], Awaitable[Any]], *statuses: int) -> BindingError:
    """With one of these, and in time."""
    with trio.fail_after(DEADLINE), pytest.raises(BindingError) as caught:
        await call()
    assert caught.value.status in statuses
    return caught.value


async def text_under(bucket: Bucket, key: str) -> str:
    found = await bucket.get(key)
    assert isinstance(found, ObjectBody)
    return await found.text()


def test_of_what_a_killed_process_put_all_it_was_told_is_there_and_nothing_by_half(s3_server: S3Server) -> None:
    done = 0

    async def compare(url: str, history: History) -> None:
        async with on(url) as bucket:
            for key in history.kept.keys() | history.begun.keys():
                tag, kept = await tag_under(bucket, key), history.kept.get(key, GONE)
                assert tag in (kept, history.begun.get(key, kept))

    with worker("tests.bindings.r2_worker") as other:
        for turn in range(KILLS):
            url, history = s3_server.url(f"killed{turn}"), History()
            other.kill("write_on", url, str(turn), history, random.randrange(1, 6))
            trio.run(compare, url, history)
            done += history.done
    assert done > KILLS


@in_trio
async def test_a_store_that_hangs_is_504_in_time_and_holds_nothing_by_half(server: S3Server) -> None:
    async with on(server.url("x")) as bucket:
        await bucket.put("key", "old")
        await bucket.put("other", "old")
        with server.stopped():
            async with trio.open_nursery() as nursery:
                for call in (lambda: bucket.put("key", "new"), lambda: bucket.get("other"), lambda: bucket.list()):
                    nursery.start_soon(fails, call, 504)
        await trio.to_thread.run_sync(server.wait)
        assert await text_under(bucket, "key") in ("old", "new")
        assert await text_under(bucket, "other") == "old"
        await bucket.put("key", "newer")
        assert await text_under(bucket, "key") == "newer"


@in_trio
async def test_a_store_that_goes_down_is_503_leaves_nothing_by_half_and_is_found_again(server: S3Server) -> None:
    async with on(server.url("x")) as bucket:
        await bucket.put("key", "old")
        await bucket.put("large", bytes(LARGE))

        async def cut() -> AsyncIterator[bytes]:
            yield bytes(LARGE)
            server.kill()
            yield bytes(LARGE)

        async def read_on(body: AsyncIterator[bytes]) -> None:
            async for _ in body:
                pass

        found = await bucket.get("large")
        assert isinstance(found, ObjectBody)
        body = aiter(found.body)
        await anext(body)
        await fails(lambda: bucket.put("key", cut()), 503, 504)
        await fails(lambda: read_on(body), 503, 504)
        for call in (lambda: bucket.put("key", "new"), lambda: bucket.get("key"), lambda: bucket.delete("key")):
            assert "can't be reached" in str(await fails(call, 503))
        await trio.to_thread.run_sync(server.start)
        await trio.to_thread.run_sync(server.wait)
        assert await text_under(bucket, "key") == "old"
        await bucket.put("key", "new")
        assert await text_under(bucket, "key") == "new"


@in_trio
async def test_what_is_not_ours_is_said_when_it_is_opened_without_the_secret(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BindingError, match="R2 BUCKET: bucket nonesuch at http.*: open: NoSuchBucket"):
        async with on(s3_server.url("x").replace(f"//{BUCKET}/", "//nonesuch/")):
            pass
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wr0ng")
    with pytest.raises(BindingError, match="open: SignatureDoesNotMatch") as caught:
        async with on(s3_server.url("x")):
            pass
    assert "wr0ng" not in str(caught.value)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(PolicyError, match="AWS_SECRET_ACCESS_KEY must be set in our environment"):
        async with on(s3_server.url("x")):
            pass


@pytest.mark.parametrize(
    "url",
    ["s3://", "s3://bucket?size=1", "s3://bucket?endpoint=host", "s3://key:s3cret@bucket", "s3://bucket/../x", "s3:x"],
)
@in_trio
async def test_a_url_that_can_not_be_is_said_without_what_may_be_secret(url: str) -> None:
    with pytest.raises(PolicyError) as caught:
        async with on(url):
            pass
    assert "s3://" in str(caught.value)
    assert "s3cret" not in str(caught.value)
