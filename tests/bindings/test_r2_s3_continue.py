"""The bytes that an S3 store gets before and after it has asked for the body. A server of the test plays the store."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from pyinterceptor.bindings.r2 import s3_store
from pyinterceptor.bindings.r2.engine import Labels
from pyinterceptor.bindings.r2.s3 import S3Engine
from pyinterceptor.bindings.r2.s3_continue import WAITED
from pyinterceptor.bindings.r2.s3_store import Store, connect, place_of
from pyinterceptor.web import Body
from tests.bindings.faults import fails
from tests.bindings.processes import free_port, until
from tests.bindings.s3_server import ACCESS, SECRET
from tests.bindings.test_kv_redis import make_certificate
from tests.socket.loopback import in_trio

BODY = bytes(range(256)) * 4096


@dataclass
class Asked:
    heads: list[str] = field(default_factory=list)
    body: bytes = b""


@asynccontextmanager
async def store(
    asked: Asked, *, after: float, says: bytes, answers: bytes, takes: int = len(BODY)
) -> AsyncIterator[Store]:
    """Runs a store. For each connection it reads a head, sends `says` after `after` seconds, reads `takes` bytes of the
    body and sends `answers`. If `answers` is empty, it then hangs."""

    async def serve(stream: trio.SocketStream) -> None:
        head, _, body = (await stream.receive_some()).partition(b"\r\n\r\n")
        asked.heads.append(head.decode())
        assert body == b""
        await trio.sleep(after)
        try:
            await stream.send_all(says)
            async for data in stream:
                asked.body += data
                if len(asked.body) >= takes:
                    if not answers:
                        await trio.sleep_forever()
                    await stream.send_all(answers)
        except trio.BrokenResourceError:
            pass
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        opened = connect("BUCKET", place_of("BUCKET", f"s3://bucket?endpoint=http://127.0.0.1:{port}"))
        try:
            yield opened
        finally:
            opened.close()
            nursery.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


def put(opened: Store, body: bytes = BODY) -> Callable[[], Any]:
    return lambda: opened.ask("put", "put_object", Key="key", Body=body)


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nETag: x\r\nContent-Length: 0\r\n\r\n"
FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"


@in_trio
async def test_a_body_is_sent_once_the_store_asks_for_it() -> None:
    asked = Asked()
    async with store(asked, after=0.5, says=CONTINUE, answers=OK) as opened:
        assert (await put(opened)())["ETag"] == "x"
    assert len(asked.heads) == 1
    assert "Expect: 100-continue" in asked.heads[0]
    assert asked.body == BODY


@in_trio
async def test_a_body_not_asked_for_in_time_is_withheld_at_every_attempt() -> None:
    asked = Asked()
    async with store(asked, after=WAITED + 0.3, says=CONTINUE, answers=OK) as opened:
        await fails(put(opened), 504)
        await trio.sleep(WAITED)  # only now does the store ask for the last attempt's body
    assert len(asked.heads) >= 3
    assert asked.body == b""


@in_trio
async def test_a_refusal_is_reported_without_sending_the_body() -> None:
    asked = Asked()
    async with store(asked, after=0, says=FORBIDDEN, answers=b"") as opened:
        assert "access denied" in str(await fails(put(opened), 503))
    assert asked.body == b""


@pytest.mark.parametrize("says", [b"HTTP/1.1 102 Processing\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"])
@in_trio
async def test_a_server_that_does_not_speak_s3_is_503(says: bytes) -> None:
    async with store(Asked(), after=0, says=says, answers=b"") as opened:
        content, labels = Body("some"), Labels()
        assert "no ETag" in str(
            await fails(lambda: S3Engine(opened, "").put("key", aiter(content), labels, None, None), 503)
        )


@in_trio
async def test_a_store_that_hangs_behind_tls_is_504_and_gets_no_body(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The messages of TLS 1.3 after the handshake must not be taken for "100 Continue"."""
    certificate, key, port = str(tmp_path / "tls.crt"), str(tmp_path / "tls.key"), free_port()
    make_certificate(certificate, key)
    monkeypatch.setenv("AWS_CA_BUNDLE", certificate)
    with silent(port, certificate, key) as server:
        opened = connect("BUCKET", place_of("BUCKET", f"s3://bucket?endpoint=https://127.0.0.1:{port}"))
        await fails(put(opened), 504)
        opened.close()
        server.kill()
        heard = server.communicate()[0]
    assert b"Expect: 100-continue" in heard
    assert BODY[:256] not in heard


@contextmanager
def silent(port: int, certificate: str, key: str) -> Iterator[subprocess.Popen[bytes]]:
    """Runs `openssl s_server`, which copies the requests to its output and sends no answer."""
    argv = ["openssl", "s_server", "-quiet", "-accept", f"127.0.0.1:{port}", "-cert", certificate, "-key", key]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        try:
            until(lambda: f":{port:04X} 00000000:0000 0A " in Path("/proc/net/tcp").read_text())  # until it listens
            yield server
        finally:
            server.kill()


@in_trio
async def test_a_store_that_stops_reading_a_body_is_504() -> None:
    asked = Asked()
    async with store(asked, after=0, says=CONTINUE, answers=b"", takes=1) as opened:
        await fails(put(opened, BODY * 64), 504)  # more than the kernel buffers
    assert 0 < len(asked.body) < len(BODY)


@in_trio
async def test_many_calls_all_fail_in_time_unless_the_store_is_only_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(s3_store, "THREADS", 2)
    monkeypatch.setattr(s3_store, "BUSY", 1)
    answered = 0

    async def look(opened: Store) -> None:
        nonlocal answered
        await opened.ask("head", "head_object", Key="key")
        answered += 1

    async with store(Asked(), after=20, says=OK, answers=b"") as opened, trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(fails, partial(look, opened), 504)
    closing = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    async with store(Asked(), after=0.2, says=closing, answers=b"") as opened, trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(look, opened)
    assert answered == 20
