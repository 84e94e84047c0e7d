"""A client and a handler: requests and responses."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import pytest
import trio

from pyinterceptor.web import Body, Request, Response
from tests.stream.dialogue import GET, answer_ok, answering, http, in_trio, ok, serving

# --- one request after another --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bytewise", [False, True])
@in_trio
async def test_a_connection_serves_one_request_after_another(bytewise: bool) -> None:
    async with serving(answer_ok) as client:
        for _ in range(3):
            await client.sends(GET, bytewise=bytewise)
            await client.gets(ok())


@pytest.mark.parametrize("bytewise", [False, True])
@in_trio
async def test_pipelined_requests_are_answered_in_their_order(bytewise: bool) -> None:
    async def say_path(request: Request) -> Response:
        return Response(request.url.path)

    async with serving(say_path) as client:
        await client.sends(GET.replace(b"/", b"/1", 1) + GET.replace(b"/", b"/2", 1), bytewise=bytewise)
        await client.gets(ok("/1") + ok("/2"))


@in_trio
async def test_a_client_may_ask_for_the_last_response() -> None:
    async with serving(answer_ok) as client:
        await client.sends(http("GET / HTTP/1.1", "Host: my.kv", "Connection: close") + GET)
        await client.gets(ok("ok", "connection: close"))
        await client.gets_nothing_more()


@in_trio
async def test_a_handler_may_close_the_connection() -> None:
    async with serving(answering(lambda: Response("ok", headers={"Connection": "close"}))) as client:
        await client.sends(GET)
        await client.gets(ok("ok", "connection: close"))
        await client.gets_nothing_more()


@in_trio
async def test_http_1_0_ends_after_a_response_unless_it_asks_to_stay() -> None:
    async with serving(answer_ok) as client:
        for _ in range(2):
            await client.sends(http("GET / HTTP/1.0", "Connection: keep-alive"))
            await client.gets(ok("ok", "connection: keep-alive"))
        await client.sends(http("GET / HTTP/1.0"))
        await client.gets(ok("ok", "connection: close"))
        await client.gets_nothing_more()


# --- what a handler sees --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "fields", "destination", "url"),
    [
        ("GET /a?b=c HTTP/1.1", ["Host: MY.kv"], ("198.51.100.7", 80), "http://my.kv/a?b=c"),
        ("GET /a HTTP/1.1", ["Host: my.kv:8080"], ("198.51.100.7", 8080), "http://my.kv:8080/a"),
        ("GET /a HTTP/1.1", ["Host: my.kv"], ("198.51.100.7", 8080), "http://my.kv:8080/a"),
        ("GET /a HTTP/1.1", ["Host: [2001:DB8:0::7]"], ("2001:db8::7", 80), "http://[2001:db8::7]/a"),
        ("GET /a HTTP/1.0", [], ("198.51.100.7", 80), "http://198.51.100.7/a"),
        ("GET /a HTTP/1.0", [], ("2001:db8::7", 8080), "http://[2001:db8::7]:8080/a"),
        ("GET http://my.kv/a HTTP/1.1", ["Host: my.kv"], ("198.51.100.7", 3128), "http://my.kv/a"),
        ("GET http://my.kv?b HTTP/1.1", ["Host: my.kv"], ("198.51.100.7", 80), "http://my.kv/?b"),
        ("OPTIONS * HTTP/1.1", ["Host: my.kv"], ("198.51.100.7", 80), "http://my.kv"),
        ("GET //x.example/a HTTP/1.1", ["Host: my.kv"], ("198.51.100.7", 80), "http://my.kv//x.example/a"),
        ("GET /a%2F..;?%00 HTTP/1.1", ["Host: my.kv"], ("198.51.100.7", 80), "http://my.kv/a%2F..;?%00"),
    ],
)
@in_trio
async def test_the_url_is_made_of_the_head_and_the_port_that_was_dialled(
    line: str, fields: list[str], destination: tuple[str, int], url: str
) -> None:
    seen: list[str] = []

    async def look(request: Request) -> Response:
        seen.append(str(request.url))
        return Response("ok")

    async with serving(look, destination=destination) as client:
        await client.sends(http(line, *fields, "Connection: close"))
        await client.gets(ok("ok", "connection: close"))
    assert seen == [url]


@in_trio
async def test_fields_come_in_their_order_each_as_often_as_it_was_sent() -> None:
    seen: list[tuple[str, str]] = []

    async def look(request: Request) -> Response:
        seen.extend(request.headers.items())
        return Response(", ".join(request.headers.getall("x-two")) + request.headers["X-TWO"])

    async with serving(look) as client:
        await client.sends(http("GET / HTTP/1.1", "X-Two:  a ", "Host: my.kv", "x-two:b", "Empty:"))
        await client.gets(ok("a, ba, b"))
    assert seen == [("X-Two", "a"), ("Host", "my.kv"), ("x-two", "b"), ("Empty", "")]


# --- responses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", ["content-length: 5", "Content-Length: 0", "transfer-encoding: chunked"])
@in_trio
async def test_the_length_of_a_response_is_that_of_its_body_not_the_handlers(length: str) -> None:
    name, _, value = length.partition(": ")
    async with serving(answering(lambda: Response("ok", headers={name: value}))) as client:
        await client.sends(GET * 2)
        await client.gets(ok() * 2)


@in_trio
async def test_several_cookies_stay_several_fields() -> None:
    cookies = [("Set-Cookie", "a=1, x"), ("set-cookie", "b=2")]
    async with serving(answering(lambda: Response(b"", headers=cookies))) as client:
        await client.sends(GET)
        await client.gets(http("HTTP/1.1 200 OK", "Set-Cookie: a=1, x", "set-cookie: b=2", "content-length: 0"))


@in_trio
async def test_fields_for_one_hop_do_not_pass() -> None:
    fields = {"Connection": "x-other, close", "Keep-Alive": "5", "Trailer": "y", "TE": "z", "X-Other": "2"}
    async with serving(answering(lambda: Response(b"", headers=fields))) as client:
        await client.sends(GET)
        await client.gets(http("HTTP/1.1 200 OK", "X-Other: 2", "content-length: 0", "connection: close"))


@pytest.mark.parametrize(
    ("make", "head"),
    [
        (lambda: Response("ok"), ["content-type: text/plain; charset=utf-8", "content-length: 2"]),
        (lambda: Response(b"", headers={"content-length": "7"}), ["content-length: 7"]),
        (lambda: Response(b""), []),
        (lambda: Response(b"", headers={"content-length": "seven"}), []),
        (lambda: Response(parts()), []),
    ],
)
@in_trio
async def test_head_gets_a_head_alone(make, head: list[str]) -> None:
    async with serving(answering(make)) as client:
        await client.sends(http("HEAD / HTTP/1.1", "Host: my.kv") * 2)
        await client.gets(http("HTTP/1.1 200 OK", *head) * 2)


@in_trio
async def test_204_and_304_have_no_body_and_204_no_length() -> None:
    statuses = iter([204, 304])
    fields = {"content-length": "5", "etag": '"x"'}
    async with serving(answering(lambda: Response(b"hello", next(statuses), fields))) as client:
        await client.sends(GET * 2)
        await client.gets(http("HTTP/1.1 204 No Content", 'etag: "x"'))
        await client.gets(http("HTTP/1.1 304 Not Modified", 'etag: "x"', "content-length: 5"))


@in_trio
async def test_a_status_without_a_name_is_sent_all_the_same() -> None:
    async with serving(answering(lambda: Response(b"", 520))) as client:
        await client.sends(GET)
        await client.gets(http("HTTP/1.1 520 ", "content-length: 0"))


async def parts(*, fails: BaseException | None = None) -> AsyncIterator[bytes | str]:
    yield b"one"
    yield ""
    yield "two"
    if fails is not None:
        raise fails


@in_trio
async def test_a_streamed_response_is_chunked() -> None:
    async with serving(answering(lambda: Response(parts()))) as client:
        await client.sends(GET * 2)
        whole = http("HTTP/1.1 200 OK", "transfer-encoding: chunked", body=b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")
        await client.gets(whole * 2)


@in_trio
async def test_a_streamed_response_never_has_two_lengths() -> None:
    async with serving(answering(lambda: Response(parts(), headers={"content-length": "6"}))) as client:
        await client.sends(GET)
        chunked = http("HTTP/1.1 200 OK", "transfer-encoding: chunked", body=b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")
        await client.gets(chunked)


@in_trio
async def test_a_streamed_response_to_http_1_0_ends_with_the_connection() -> None:
    async with serving(answering(lambda: Response(parts()))) as client:
        await client.sends(http("GET / HTTP/1.0", "Connection: keep-alive"))
        await client.gets(http("HTTP/1.1 200 OK", "connection: close", body=b"onetwo"))
        await client.gets_nothing_more()
        assert not client.connection.was_reset


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
@pytest.mark.usefixtures("expected_errors")
@in_trio
async def test_a_streamed_response_that_fails_ends_in_a_reset(version: str, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(answering(lambda: Response(parts(fails=OSError("disk"))))) as client:
        await client.sends(http(f"GET / {version}", "Host: my.kv"))
        if version == "HTTP/1.0":
            await client.gets(http("HTTP/1.1 200 OK", "connection: close", body=b"onetwo"))
        else:
            await client.gets(http("HTTP/1.1 200 OK", "transfer-encoding: chunked", body=b"3\r\none\r\n3\r\ntwo\r\n"))
        await client.gets_nothing_more()
        assert client.connection.was_reset
    (record,) = caplog.get_records("call")
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], OSError)


@pytest.mark.parametrize(("length", "sent"), [(5, b"one"), (7, b"onetwo")])
@pytest.mark.usefixtures("expected_errors")
@in_trio
async def test_a_streamed_response_of_another_length_than_declared_ends_in_a_reset(length: int, sent: bytes) -> None:
    async with serving(answering(lambda: Response(Body(parts(), length)))) as client:
        await client.sends(GET)
        await client.gets(http("HTTP/1.1 200 OK", f"content-length: {length}", body=sent))
        await client.gets_nothing_more()
        assert client.connection.was_reset


# --- handlers that fail ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("expected_errors")
@in_trio
async def test_a_handler_that_raises_is_answered_for_and_the_connection_lives(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail_first(request: Request) -> Response:
        if request.url.path == "/bad":
            raise KeyError("of the handler")
        return Response("ok")

    async with serving(fail_first) as client:
        await client.sends(GET.replace(b"/", b"/bad", 1) + GET)
        text = "content-type: text/plain; charset=utf-8"
        why = b"pyinterceptor: the handler failed\n"
        await client.gets(http("HTTP/1.1 500 Internal Server Error", text, "content-length: 34", body=why))
        await client.gets(ok())
    (record,) = caplog.get_records("call")
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)


@pytest.mark.usefixtures("expected_errors")
@in_trio
async def test_a_response_whose_body_was_read_is_a_500_and_not_an_empty_one(caplog: pytest.LogCaptureFixture) -> None:
    async def read_it(request: Request) -> Response:
        response = Response(parts() if request.url.path == "/stream" else "onetwo")
        assert await response.text() == "onetwo"
        return response

    async with serving(read_it) as client:
        await client.sends(GET)
        await client.gets(ok("onetwo"))
        await client.sends(GET.replace(b"/", b"/stream", 1))
        await client.gets(http("HTTP/1.1 500 Internal Server Error")[:-2])
    assert "read already" in str(caplog.records[-1].exc_info)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Response("x", headers={"x": "a\r\nset-cookie: stolen"}),
        lambda: Response("x", headers=[("x: a\r\ny", "b")]),
        lambda: Response("x", headers={"x": "a\0"}),
        lambda: Response("x", headers={"x": "\u2028"}),
        lambda: Response("x", 99),
        lambda: Response("x", "200 OK\r\nx: y"),
        lambda: changed("status", "200 OK\r\nx: y"),
        lambda: changed("status", 100),
        lambda: changed("headers", {"x": "a\r\ny: b"}),
        lambda: changed("body", 5),
    ],
)
@pytest.mark.usefixtures("expected_errors")
@in_trio
async def test_no_response_carries_a_line_of_its_own(make) -> None:
    async with serving(answering(make)) as client:
        await client.sends(GET)
        await client.gets(http("HTTP/1.1 500 Internal Server Error", "content-type: text/plain; charset=utf-8")[:-2])


def changed(name: str, value: object) -> Response:
    response = Response("x")
    setattr(response, name, value)
    return response


# --- who leaves -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_reset", [False, True])
@in_trio
async def test_a_client_that_leaves_cancels_its_handler(is_reset: bool) -> None:
    started, ended = trio.Event(), trio.Event()

    async def wait(request: Request) -> Response:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with serving(wait) as client:
        await client.sends(GET)
        await started.wait()
        began = trio.current_time()
        client.connection.leave(is_reset=is_reset)
        await ended.wait()
        assert trio.current_time() - began < (0.1 if is_reset else 5)


@in_trio
async def test_a_client_that_closed_half_is_answered_by_a_handler_that_does_not_wait() -> None:
    async def answer_soon(request: Request) -> Response:
        client.connection.leave(is_reset=False)
        await trio.sleep(1)
        return Response("ok")

    async with serving(answer_soon) as client:
        await client.sends(GET)
        await client.gets(ok())


@in_trio
async def test_a_client_that_leaves_ends_the_stream_it_was_sent() -> None:
    ended = trio.Event()

    async def silent() -> AsyncIterator[bytes]:
        yield b"one"
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with serving(answering(lambda: Response(silent()))) as client:
        await client.sends(GET)
        await client.gets(http("HTTP/1.1 200 OK", "transfer-encoding: chunked", body=b"3\r\none\r\n"))
        client.connection.leave(is_reset=False)
        await ended.wait()
        await client.gets_nothing_more()
        assert client.connection.was_reset


@in_trio
async def test_bytes_that_the_client_leaves_unread_do_not_stop_the_server() -> None:
    async with serving(answer_ok) as client:
        await client.sends(GET)
        await client.closes()
