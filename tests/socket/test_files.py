"""Bodies in a file: the kernel moves all of their bytes, Python none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from pyinterceptor import R2Bucket
from pyinterceptor.bindings.r2 import ObjectBody
from pyinterceptor.http.fetch import fetch
from pyinterceptor.http.transfer import PUMPED
from pyinterceptor.web import Body, Request, Response
from tests.socket.loopback import in_trio, read_all
from tests.socket.served import gets, loopback
from tests.stream.dialogue import GET, http

BODY = os.urandom(3_000_000)
SIZE = len(BODY)
HEAD = http("HTTP/1.1 200 OK", f"content-length: {SIZE}")


@dataclass
class Unread:
    """The bytes of a file from `offset` on. Reading them in Python fails the test."""

    file: int
    offset: int
    remaining: int
    closed: trio.Event = field(default_factory=trio.Event)

    @property
    def source(self) -> Unread:
        return self

    def __aiter__(self) -> Unread:
        return self

    async def __anext__(self) -> bytes:
        raise AssertionError("the body passed through Python")

    async def aclose(self) -> None:
        self.closed.set()


@contextmanager
def stored(place: Path, *, offset: int = 0, missing: int = 0) -> Iterator[Unread]:
    """Yields a file with BODY from `offset` on, without the last `missing` bytes."""
    place.write_bytes(bytes(offset) + BODY[: SIZE - missing])
    fd = os.open(place, os.O_RDONLY)
    try:
        yield Unread(fd, offset, SIZE)
    finally:
        os.close(fd)


@pytest.mark.parametrize("small", [False, True])
@in_trio
async def test_a_body_in_a_file_reaches_the_client_unread_and_the_connection_serves_on(
    small: bool, tmp_path: Path
) -> None:
    with stored(tmp_path / "file", offset=5) as file:

        async def answer(request: Request) -> Response:
            return Response(Body(file, SIZE))

        async with loopback(answer) as net:
            client = await net.connect(small=small)
            for _ in range(2):
                file.closed = trio.Event()
                await client.send_all(GET)
                await gets(client, HEAD + BODY)
                await file.closed.wait()
            await client.aclose()


@in_trio
async def test_an_object_of_r2_reaches_the_client_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pread(*_: object) -> bytes:
        raise AssertionError("the body passed through Python")

    async with R2Bucket().open("BUCKET", tmp_path) as bucket:
        await bucket.put("key", BODY)
        monkeypatch.setattr(os, "pread", pread)

        async def found() -> ObjectBody:
            there = await bucket.get("key")
            assert isinstance(there, ObjectBody)
            return there

        async def answer(request: Request) -> Response:
            return Response((await found()).body)

        async with loopback(answer) as net:
            client = await net.connect()
            await client.send_all(GET)
            await gets(client, HEAD + BODY)
            await client.aclose()
        with pytest.raises(AssertionError, match="passed through Python"):
            await (await found()).bytes()


@in_trio
async def test_a_body_in_a_file_is_uploaded_unread(tmp_path: Path) -> None:
    with stored(tmp_path / "file", offset=5) as file:

        async def upload(request: Request) -> Response:
            return await fetch("http://origin.test/", method="PUT", body=Body(file, SIZE))

        async with loopback(upload) as net:
            client = await net.connect()
            await client.send_all(GET)
            origin = await net.origin()
            sent = http("PUT / HTTP/1.1", "host: origin.test", f"content-length: {SIZE}", body=BODY)
            await gets(origin, sent)
            await origin.send_all(http("HTTP/1.1 200 OK", "content-length: 2", body=b"ok"))
            await gets(client, http("HTTP/1.1 200 OK", "content-length: 2", body=b"ok"))
            await client.aclose()
            await origin.aclose()


@in_trio
async def test_a_client_that_does_not_read_a_file_is_reset(tmp_path: Path) -> None:
    with stored(tmp_path / "file") as file:

        async def answer(request: Request) -> Response:
            return Response(Body(file, SIZE))

        async with loopback(answer) as net:
            client = await net.connect(small=True)
            await client.send_all(GET)
            await file.closed.wait()
            got, was_reset = await read_all(client)
            assert was_reset
            assert len(got) < SIZE
            await client.aclose()


@pytest.mark.usefixtures("expected_errors")
@in_trio
async def test_a_file_that_is_shorter_than_its_body_ends_in_a_reset(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with stored(tmp_path / "file", missing=100) as file:

        async def answer(request: Request) -> Response:
            return Response(Body(file, SIZE))

        async with loopback(answer) as net:
            client = await net.connect()
            await client.send_all(GET)
            _, was_reset = await read_all(client)
            assert was_reset
            await client.aclose()
    assert "the body's file ended 100 bytes before its end" in caplog.text


@in_trio
async def test_a_client_that_leaves_in_the_middle_of_a_file_costs_only_its_connection(tmp_path: Path) -> None:
    with stored(tmp_path / "file") as file:

        async def answer(request: Request) -> Response:
            return Response(Body(file, SIZE))

        async with loopback(answer) as net:
            leaving = await net.connect(small=True)
            await leaving.send_all(GET)
            assert await leaving.receive_some(100)
            await leaving.aclose()
            client = await net.connect()
            await client.send_all(GET)
            await gets(client, HEAD + BODY)
            await client.aclose()


@in_trio
async def test_a_small_file_is_read_and_goes_out_as_any_body() -> None:
    class Small(Unread):
        async def __anext__(self) -> bytes:
            data, self.remaining = b"x" * self.remaining, 0
            if not data:
                raise StopAsyncIteration
            return data

    async def answer(request: Request) -> Response:
        return Response(Body(Small(-1, 0, PUMPED - 1), PUMPED - 1))

    async with loopback(answer) as net:
        client = await net.connect()
        await client.send_all(GET)
        await gets(client, http("HTTP/1.1 200 OK", f"content-length: {PUMPED - 1}", body=b"x" * (PUMPED - 1)))
        await client.aclose()
