"""A client sends a body: the handler's reading, and the next request."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from pyinterceptor.errors import PeerError
from pyinterceptor.http.server import Limits
from pyinterceptor.web import Request, Response
from tests.stream.dialogue import GET, answer_ok, echo, http, in_trio, ok, serving

LENGTH = http("POST / HTTP/1.1", "Host: my.kv", "Content-Length: 11", body=b"hello world")
CHUNKED = http(
    "POST / HTTP/1.1",
    "Host: my.kv",
    "Transfer-Encoding: chunked",
    body=b'5\r\nhello\r\n6;a="b"\r\n world\r\n0\r\nTrailer: t\r\nOther: u\r\n\r\n',
)
EXPECTING = http("POST / HTTP/1.1", "Host: my.kv", "Content-Length: 11", "Expect: 100-continue")
CONTINUE = http("HTTP/1.1 100 Continue")


def said(text: str, *fields: str) -> bytes:
    return http("HTTP/1.1 200 OK", f"content-length: {len(text)}", *fields, body=text.encode())


@pytest.mark.parametrize("request_", [LENGTH, CHUNKED], ids=["length", "chunked"])
@pytest.mark.parametrize("bytewise", [False, True])
@in_trio
async def test_a_body_is_read_whole_and_the_next_request_found(request_: bytes, bytewise: bool) -> None:
    async with serving(echo) as client:
        await client.sends(request_ * 2, bytewise=bytewise)
        await client.gets(said("hello world") * 2)


@pytest.mark.parametrize("request_", [LENGTH, CHUNKED], ids=["length", "chunked"])
@in_trio
async def test_an_unread_body_is_skipped(request_: bytes) -> None:
    async with serving(answer_ok) as client:
        await client.sends(request_ + GET)
        await client.gets(ok() * 2)


@pytest.mark.parametrize("request_", [LENGTH, CHUNKED], ids=["length", "chunked"])
@in_trio
async def test_a_reader_that_leaves_in_the_middle_loses_nothing(request_: bytes) -> None:
    async def read_some(request: Request) -> Response:
        if request.method == "POST":
            async for _ in request.body:
                break
        return Response("ok")

    async with serving(read_some) as client:
        await client.sends(request_[:-20], bytewise=True)
        await client.sends(request_[-20:] + GET)
        await client.gets(ok() * 2)


@pytest.mark.parametrize("request_", [LENGTH, CHUNKED], ids=["length", "chunked"])
@in_trio
async def test_a_cancelled_reader_loses_no_bytes_at_any_point_of_the_body(request_: bytes) -> None:
    """The rest of the body is never parsed as a request."""
    head = request_.index(b"\r\n\r\n") + 4

    async def give_up(request: Request) -> Response:
        with trio.move_on_after(1):
            return Response(await request.bytes())
        return Response("too slow")

    for cut in range(head, len(request_)):
        async with serving(give_up) as client:
            await client.sends(request_[:cut])
            await client.gets(ok("too slow"))
            await client.sends(request_[cut:] + LENGTH)
            await client.gets(said("hello world"))


@in_trio
async def test_other_tasks_get_their_turns_while_a_body_of_tiny_chunks_is_read() -> None:
    """One read returns thousands of chunks. Parsing them must not delay other tasks."""
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async def read(request: Request) -> Response:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take_turns)
            body = await request.bytes()
            nursery.cancel_scope.cancel()
        return Response(str(len(body)))

    async with serving(read) as client:
        chunks = b"1\r\nx\r\n" * 6400 + b"0\r\n\r\n"
        await client.sends(http("POST / HTTP/1.1", "Host: my.kv", "Transfer-Encoding: chunked", body=chunks))
        await client.gets(ok("6400"))
    assert turns >= 90


@in_trio
async def test_a_body_cannot_be_read_after_its_request(caplog: pytest.LogCaptureFixture) -> None:
    kept: list[Request] = []

    async def keep(request: Request) -> Response:
        kept.append(request)
        return Response("ok")

    async with serving(keep) as client:
        await client.sends(LENGTH)
        await client.gets(ok())
        with pytest.raises(RuntimeError, match="over"):
            await kept[0].bytes()
        await client.sends(GET)
        await client.gets(ok())


@in_trio
async def test_a_reader_in_the_background_ends_the_connection_rather_than_eat_the_next_request() -> None:
    failed: list[BaseException] = []

    async def read_on(request: Request) -> None:
        try:
            await request.bytes()
        except PeerError as error:
            failed.append(error)

    async with trio.open_nursery() as nursery:

        async def leave_reading(request: Request) -> Response:
            nursery.start_soon(read_on, request)
            await trio.testing.wait_all_tasks_blocked()
            return Response("ok")

        async with serving(leave_reading) as client:
            await client.sends(LENGTH[:-5])
            await client.gets(ok("ok", "connection: close"))
            await client.gets_nothing_more()
    assert len(failed) == 1


@in_trio
async def test_a_large_unread_body_closes_the_connection_with_connection_close() -> None:
    async with serving(answer_ok) as client:
        await client.sends(http("POST / HTTP/1.1", "Host: my.kv", "Content-Length: 1000000") + b"x" * 70_000)
        await client.gets(ok("ok", "connection: close"))
        await client.sends(b"x" * 100_000)  # the server reads on for a while, because a reset would destroy its answer
        await client.gets_nothing_more()
        assert not client.connection.was_reset


@in_trio
async def test_an_endless_unread_body_ends_with_the_connection() -> None:
    async with serving(answer_ok) as client:
        await client.sends(http("POST / HTTP/1.1", "Host: my.kv", "Transfer-Encoding: chunked"))
        await client.gets(ok())
        for _ in range(100):
            await client.sends(b"400\r\n" + b"x" * 0x400 + b"\r\n")
        await client.gets_nothing_more()


@pytest.mark.parametrize(
    "body",
    [
        b"x\r\n",
        b"-1\r\n",
        b"+1\r\na\r\n0\r\n\r\n",
        b"0x1\r\na\r\n0\r\n\r\n",
        b" 1\r\na\r\n0\r\n\r\n",
        b"1 \r\na\r\n0\r\n\r\n",
        b"1_0\r\n" + b"a" * 16 + b"\r\n0\r\n\r\n",
        b"1\r\nab\r\n0\r\n\r\n",
        b"1\r\na0\r\n\r\n",
        b"2\r\na\r\n0\r\n\r\n" + b"0\r\n\r\n",
        b"1;x\x00\r\na\r\n0\r\n\r\n",
        b"1;x\ny\r\na\r\n0\r\n\r\n",
        b"1;" + b"x" * 2000 + b"\r\na\r\n0\r\n\r\n",
        b"f" * 16 + b"\r\n",
        b"0\r\n folded: x\r\n\r\n",
        b"0\r\nno colon\r\n\r\n",
        b"0\r\nTransfer-Encoding\x00: x\r\n\r\n",
        b"0\r\nx: a\rb\r\n\r\n",
        b"0\r\n" + b"x: y\r\n" * 5000 + b"\r\n",
    ],
)
@in_trio
async def test_a_malformed_body_is_refused_and_nothing_after_it_is_a_request(body: bytes) -> None:
    asked: list[str] = []

    async def read(request: Request) -> Response:
        asked.append(request.method)
        return await echo(request)

    async with serving(read) as client:
        await client.sends(http("POST / HTTP/1.1", "Host: my.kv", "Transfer-Encoding: chunked", body=body) + GET)
        await client.gets_a_refusal(400)
    assert asked == ["POST"]


@in_trio
async def test_a_truncated_body_raises_in_its_reader() -> None:
    failed: list[str] = []

    async def read(request: Request) -> Response:
        try:
            await request.bytes()
        except PeerError as error:
            failed.append(str(error))
            raise
        return Response("ok")

    async with serving(read) as client:
        await client.sends(LENGTH[:-1])
        await client.stream.send_eof()
        await client.gets_a_refusal(400)
    assert failed == ["the body broke off"]


@in_trio
async def test_a_body_that_stalls_is_408() -> None:
    async with serving(echo, Limits(stall=5)) as client:
        await client.sends(LENGTH[:-1])
        await client.gets_a_refusal(408)


# --- Expect: 100-continue -------------------------------------------------------------------------------------------


@in_trio
async def test_a_client_that_expects_100_gets_it_when_the_body_is_read() -> None:
    async with serving(echo) as client:
        await client.sends(EXPECTING)
        await client.gets(CONTINUE)
        await client.sends(b"hello world")
        await client.gets(said("hello world"))
        await client.sends(GET)
        await client.gets(said(""))


@in_trio
async def test_a_client_that_expects_100_does_not_get_it_for_an_unread_body() -> None:
    async with serving(answer_ok) as client:
        await client.sends(EXPECTING)
        await client.gets(ok("ok", "connection: close"))
        await client.gets_nothing_more()


@in_trio
async def test_a_client_that_waits_is_asked_before_a_response_made_of_its_body() -> None:
    async def stream_back(request: Request) -> Response:
        return Response(request.body)

    async with serving(stream_back) as client:
        await client.sends(EXPECTING)
        await client.gets(CONTINUE)
        await client.gets(http("HTTP/1.1 200 OK", "content-length: 11"))
        await client.sends(b"hello")
        await client.gets(b"hello")
        await client.sends(b" world" + GET)
        await client.gets(b" world" + said(""))


@in_trio
async def test_a_client_that_waits_for_a_body_it_does_not_have_is_answered() -> None:
    async with serving(echo) as client:
        await client.sends(http("GET / HTTP/1.1", "Host: my.kv", "Expect: 100-continue"))
        await client.gets(said(""))


# --- in both directions at once -------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", [LENGTH, CHUNKED], ids=["length", "chunked"])
@in_trio
async def test_a_body_streams_back_while_it_comes(request_: bytes) -> None:
    async def stream_back(request: Request) -> Response:
        async def parts():
            async for part in request.body:
                yield part.upper()

        return Response(parts())

    async with serving(stream_back) as client:
        head, _, body = request_.partition(b"\r\n\r\n")
        await client.sends(head + b"\r\n\r\n")
        await client.gets(http("HTTP/1.1 200 OK", "transfer-encoding: chunked"))
        if request_ is LENGTH:
            await client.sends(body[:5])
            await client.gets(b"5\r\nHELLO\r\n")
            await client.sends(body[5:])
        else:
            await client.sends(body[:10])
            await client.gets(b"5\r\nHELLO\r\n")
            await client.sends(body[10:])
        await client.gets(b"6\r\n WORLD\r\n0\r\n\r\n")
        await client.sends(GET)
        await client.gets(http("HTTP/1.1 200 OK", "transfer-encoding: chunked", body=b"0\r\n\r\n"))


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("rest", [b"zz\r\n", None], ids=["malformed", "cut"])
@in_trio
async def test_a_clients_fault_in_a_body_is_not_logged_as_the_handlers(
    rest: bytes | None, depth: int, caplog: pytest.LogCaptureFixture
) -> None:
    """However many nurseries the handler reads it in."""

    async def read(request: Request, nurseries: int = depth) -> Response:
        if nurseries == 0:
            return Response(await request.bytes())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, request, nurseries - 1)
        return Response("never")

    async with serving(read) as client:
        await client.sends(http("POST / HTTP/1.1", "Host: my.kv", "Transfer-Encoding: chunked"))
        if rest is None:
            await client.stream.send_eof()
        else:
            await client.sends(rest)
        await client.gets_a_refusal(400)
    assert not caplog.records
