"""fetch() and an origin: requests, responses, and the reuse of connections."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from pyinterceptor.errors import FetchError
from pyinterceptor.http.client import open_client
from pyinterceptor.http.dial import Decides
from pyinterceptor.http.pool import IDLE_SECONDS
from pyinterceptor.web import Body, Request, Response
from tests.stream.dialogue import http, in_trio
from tests.stream.origins import Coming, Internet, Origin, internet

GET = http("GET / HTTP/1.1", "host: my.kv")
OK = http("HTTP/1.1 200 OK", "content-length: 2", body=b"ok")


def incoming(method: str, target: str, fields: list[tuple[str, str]]) -> Request:
    """Returns a request without a body, made as the server makes them."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return Request.incoming(method, target, ("http", "my.kv", 80, target), lines, None)


def any_address(ip: str, port: int) -> bool:
    """Stands for a policy that decides every address alike."""
    return True


def passing(net: Internet, at: str, decides: Decides) -> Coming:
    """Passes a container's own request for my.kv on to the address that the container dialled."""
    request = incoming("GET", "/", [("Host", "my.kv")])
    return net.start(lambda: net.client.pass_on(request, at=at, port=80, decides=decides))


async def ask(net: Internet, origin: Origin | None = None, answer: bytes = OK) -> tuple[Response, Origin]:
    """Fetches by a plain GET, which is answered on `origin`; on a new connection if that is None."""
    coming = net.fetch("http://my.kv/")
    if origin is None:
        origin = await net.dialled()
    await origin.gets(GET)
    await origin.sends(answer)
    return await coming.response(), origin


# --- the request ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "sent"),
    [
        (Request("http://my.kv/a?b=c#d"), http("GET /a?b=c HTTP/1.1", "host: my.kv")),
        (Request("http://my.kv:80/", headers={"Host": "other"}), http("GET / HTTP/1.1", "Host: my.kv")),
        (Request("http://my.kv", "post", body="hé"), http("POST / HTTP/1.1", "host: my.kv", "content-length: 3")),
        (Request("http://my.kv", "POST"), http("POST / HTTP/1.1", "host: my.kv", "content-length: 0")),
        (Request("http://my.kv", "DELETE"), http("DELETE / HTTP/1.1", "host: my.kv")),
        (
            Request("http://my.kv", headers={"Content-Length": "9", "TE": "x", "Connection": "y", "Y": "z", "A": "b"}),
            http("GET / HTTP/1.1", "host: my.kv", "Content-Length: 0", "Y: z", "A: b"),
        ),
        (
            incoming("GET", "/", [("Host", "my.kv"), ("Connection", "Y, close"), ("Y", "z"), ("A", "b")]),
            http("GET / HTTP/1.1", "Host: my.kv", "A: b"),
        ),
        (
            incoming(
                "PURGE",
                "/a%2f?",
                [("B", "1"), ("Host", "MY.KV:80"), ("a", "2"), ("b", "3"), ("Accept-Encoding", "gzip"), ("Expect", "")],
            ),
            http("PURGE /a%2f? HTTP/1.1", "B: 1", "Host: MY.KV:80", "a: 2", "b: 3", "Accept-Encoding: gzip"),
        ),
        (incoming("OPTIONS", "*", [("Host", "my.kv")]), http("OPTIONS * HTTP/1.1", "Host: my.kv")),
        (
            incoming("GET", "/", [("Host", "my.kv"), ("Content-Length", "0"), ("X", "y")]),
            http("GET / HTTP/1.1", "Host: my.kv", "Content-Length: 0", "X: y"),
        ),
    ],
)
@in_trio
async def test_a_request_is_asked_as_it_came(request_: Request, sent: bytes) -> None:
    request_.body = Body(request_.body.content)  # pytest may use this request again
    async with internet() as net:
        coming = net.fetch(request_)
        origin = await net.dialled()
        await origin.gets(sent + (request_.body.content or b""))
        await origin.sends(OK)
        assert await (await coming.response()).text() == "ok"


async def slowly(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        await trio.sleep(1)
        yield part


@pytest.mark.parametrize("length", [None, 6])
@in_trio
async def test_a_body_streams_to_the_origin_framed_as_it_came(length: int | None) -> None:
    async with internet() as net:
        coming = net.fetch(Request("http://my.kv/", "PUT", body=Body(slowly(b"one", b"two"), length)))
        origin = await net.dialled()
        framing = "transfer-encoding: chunked" if length is None else "content-length: 6"
        await origin.gets(http("PUT / HTTP/1.1", "host: my.kv", framing))
        await origin.gets(b"3\r\none\r\n" if length is None else b"one")
        await origin.gets(b"3\r\ntwo\r\n0\r\n\r\n" if length is None else b"two")
        await origin.sends(OK)
        assert await (await coming.response()).text() == "ok"


@pytest.mark.parametrize("length", [5, 7])
@in_trio
async def test_a_body_of_another_length_than_declared_is_never_complete(length: int) -> None:
    async with internet() as net:
        coming = net.fetch(Request("http://my.kv/", "PUT", body=Body(slowly(b"one", b"two"), length)))
        origin = await net.dialled()
        with pytest.raises(FetchError, match=f"of {length} bytes|its {length} bytes"):
            await coming.response()
        await origin.gets(http("PUT / HTTP/1.1", "host: my.kv", f"content-length: {length}", body=b"one"))


@in_trio
async def test_a_body_that_fails_ends_the_fetch_with_its_error() -> None:
    async def fail() -> AsyncIterator[bytes]:
        yield b"one"
        raise OSError("disk")

    async with internet() as net:
        coming = net.fetch(Request("http://my.kv/", "PUT", body=fail()))
        await net.dialled()
        with pytest.raises(FetchError, match="disk") as caught:
            await coming.response()
        assert isinstance(caught.value.__cause__, OSError)


@in_trio
async def test_an_early_answer_is_heard_and_ends_the_upload() -> None:
    closed = trio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                await trio.sleep(1)
                yield b"x"
        finally:
            closed.set()

    async with internet() as net:
        coming = net.fetch(Request("http://my.kv/", "PUT", body=endless()))
        origin = await net.dialled()
        await origin.gets(http("PUT / HTTP/1.1", "host: my.kv", "transfer-encoding: chunked"))
        await origin.sends(http("HTTP/1.1 413 Content Too Large", "content-length: 0"))
        assert (await coming.response()).status == 413
        await closed.wait()
        await ask(net)  # on a new connection: the first one is still in the middle of a request


# --- the response ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (http("HTTP/1.1 200 OK", "content-length: 5", body=b"hello"), b"hello"),
        (http("HTTP/1.1 200 OK", "transfer-encoding: chunked", body=b"2\r\nhe\r\n3;x\r\nllo\r\n0\r\n\r\n"), b"hello"),
        (http("HTTP/1.1 100 Continue") + http("HTTP/1.1 103 Early Hints", "link: x") + OK, b"ok"),
        (http("HTTP/1.1 204 No Content", "content-length: 5"), b""),
        (http("HTTP/1.1 304 Not Modified", "content-length: 5"), b""),
        (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", b"ok"),
        (
            http("HTTP/1.1 200", "Content-Length : 2", "content-length: 2, 2", "odd name: x", "y", body=b"ok"),
            b"ok",
        ),
        (http("HTTP/1.1 299 Odd", "a: b", " c", "x: \x01", "content-length:", "\t2", body=b"ok"), b"ok"),
        (http("HTTP/1.1 200 OK", "transfer-encoding: chunked", body=b"2 ;x\nok\n0  \r\nETag: 1\r\n\r\n"), b"ok"),
        (http("HTTP/1.1 200 OK", "content-length: 4", "content-encoding: gzip", body=b"\x1f\x8b\0\1"), b"\x1f\x8b\0\1"),
    ],
)
@in_trio
async def test_a_response_is_read_and_its_connection_used_again(raw: bytes, body: bytes, bytewise: bool) -> None:
    async with internet() as net:
        origin = None
        for _ in range(2):
            coming = net.fetch("http://my.kv/")
            origin = origin or await net.dialled()
            await origin.gets(GET)
            await origin.sends(raw, bytewise=bytewise)
            assert await (await coming.response()).bytes() == body
        assert net.dials == 1


@in_trio
async def test_a_response_may_end_with_its_connection() -> None:
    async with internet() as net:
        response, origin = await ask(net, answer=http("HTTP/1.1 200 OK", body=b"hel"))
        await origin.sends(b"lo")
        await origin.stream.send_eof()
        assert await response.text() == "hello"
        await ask(net)
        assert net.dials == 2


@in_trio
async def test_the_response_is_there_before_its_body() -> None:
    async with internet() as net:
        response, origin = await ask(net, answer=http("HTTP/1.1 200 OK", "content-length: 4"))
        chunks = aiter(response.body)
        for part in (b"on", b"e!"):
            await origin.sends(part)
            assert await anext(chunks) == part
        with pytest.raises(StopAsyncIteration):
            await anext(chunks)


@pytest.mark.parametrize(
    "raw",
    [
        http("HTTP/1.1 200 OK", "content-length: 5", body=b"hell"),
        http("HTTP/1.1 200 OK", "transfer-encoding: chunked", body=b"5\r\nhello\r\n"),
        http("HTTP/1.1 200 OK", "transfer-encoding: chunked", body=b"5\r\nhell"),
        http("HTTP/1.1 200 OK", "transfer-encoding: chunked", body=b"5\r\nhellox\r\n"),
        http("HTTP/1.1 200 OK", "transfer-encoding: chunked", body=b"x\r\n"),
    ],
)
@in_trio
async def test_a_response_that_is_cut_off_is_never_whole(raw: bytes) -> None:
    async with internet() as net:
        coming = net.fetch("http://my.kv/")
        origin = await net.dialled()
        await origin.sends(raw)
        await origin.stream.send_eof()
        with pytest.raises(FetchError):
            await (await coming.response()).bytes()
        await ask(net)
        assert net.dials == 2


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"SSH-2.0-x\r\n",
        http("HTTP/2.0 200 OK", "content-length: 0"),
        http("HTTP/1.1 099 Odd", "content-length: 0"),
        http("HTTP/1.1 1000 Odd", "content-length: 0"),
        http("HTTP/1.1 200 OK", "content-length: 1", "content-length: 2"),
        http("HTTP/1.1 200 OK", "transfer-encoding: gzip, chunked"),
        http("HTTP/1.1 200 OK", "transfer-encoding: xchunked"),
        http("HTTP/1.1 200 OK", "content-length: +1"),
        http("HTTP/1.1 200 OK", "a\0: b"),
        http("HTTP/1.1 200 OK", "a: b\0"),
        http("HTTP/1.1 101 Switching Protocols", "connection: upgrade", "upgrade: x"),
        http("HTTP/1.1 200 OK", *[f"x-{number}: {'y' * 1000}" for number in range(400)]),
    ],
)
@in_trio
async def test_an_invalid_response_is_an_error(raw: bytes) -> None:
    async with internet() as net:
        coming = net.fetch(Request("http://my.kv/", "PATCH"))
        origin = await net.dialled()
        await origin.sends(raw)
        await origin.stream.send_eof()
        with pytest.raises(FetchError, match=r"receive from my\.kv:80"):
            await coming.response()


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize(
    "raw",
    [
        http("HTTP/1.1 200 OK", "content-length: 9", "transfer-encoding: chunked", body=b"2\r\nok\r\n0\r\n\r\n"),
        http("HTTP/1.1 200 OK", "transfer-encoding: identity", "content-length: 2", body=b"ok"),
        http("HTTP/1.0 200 OK", "transfer-encoding: chunked", body=b"2\r\nok\r\n0\r\n\r\n"),
    ],
)
@in_trio
async def test_a_response_with_unclear_framing_is_read_and_its_connection_closed(raw: bytes, bytewise: bool) -> None:
    async with internet() as net:
        coming = net.fetch("http://my.kv/")
        origin = await net.dialled()
        await origin.gets(GET)
        await origin.sends(raw, bytewise=bytewise)
        assert await (await coming.response()).bytes() == b"ok"
        await origin.hears_the_end()
        await ask(net)
        assert net.dials == 2


@in_trio
async def test_a_head_may_have_300_kib() -> None:
    async with internet() as net:
        fields = [f"x-{number}: {'y' * 1000}" for number in range(290)]
        response, origin = await ask(net, answer=http("HTTP/1.1 200 OK", *fields, "content-length: 2", body=b"ok"))
        assert (await response.text(), len(response.headers)) == ("ok", 291)
        await ask(net, origin)


@in_trio
async def test_the_largest_head_can_be_set() -> None:
    head = http("HTTP/1.1 200 OK", "content-length: 2")
    async with internet() as net, open_client(net, max_head=len(head)) as net.client:
        response, _ = await ask(net, answer=head + b"ok")
        assert await response.text() == "ok"
    async with internet() as net, open_client(net, max_head=len(head) - 1) as net.client:
        with pytest.raises(FetchError, match=rf"headers larger than open_interceptor\(fetch_head={len(head) - 1}\)"):
            await ask(net, answer=head + b"ok")


@in_trio
async def test_a_shoutcast_answer_ends_with_its_connection() -> None:
    async with internet() as net:
        response, origin = await ask(net, answer=http("ICY 200 OK", "icy-name: x", body=b"mu"))
        await origin.sends(b"sic")
        await origin.stream.send_eof()
        assert (await response.text(), response.headers["icy-name"]) == ("music", "x")


@pytest.mark.parametrize("status", [200, 299, 600, 999])
@in_trio
async def test_a_fetched_status_may_be_up_to_999(status: int) -> None:
    async with internet() as net:
        response, _ = await ask(net, answer=http(f"HTTP/1.1 {status} Odd", "content-length: 0"))
        assert response.status == status
    if status > 599:
        with pytest.raises(ValueError, match="status"):
            Response(status=status)


# --- connections ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        http("HTTP/1.1 200 OK", "content-length: 2", "connection: close", body=b"ok"),
        http("HTTP/1.0 200 OK", "content-length: 2", body=b"ok"),
        OK + b"surplus",
        OK + OK,
    ],
)
@in_trio
async def test_a_connection_that_is_not_sure_to_be_fresh_is_not_used_again(answer: bytes) -> None:
    async with internet() as net:
        response, origin = await ask(net, answer=answer)
        assert await response.text() == "ok"
        await origin.gets_nothing_more()
        await ask(net)
        assert net.dials == 2


@in_trio
async def test_connections_are_kept_by_scheme_host_port_permission_and_address() -> None:
    async with internet() as net:
        await ask(net)
        for url, options, where in (
            ("http://other.kv/", {}, ("other.kv", 80, False)),
            ("http://my.kv:81/", {}, ("my.kv", 81, False)),
            ("http://my.kv/", {"local": True}, ("my.kv", 80, True)),
        ):
            coming = net.fetch(url, **options)
            origin = await net.dialled(*where)
            await origin.sends(OK)
            await coming.response()
        for at in ("198.51.100.7", "198.51.100.8"):
            for count in range(2):
                coming = passing(net, at, any_address)
                if count == 0:
                    origin = await net.dialled(at=at)
                await origin.gets(http("GET / HTTP/1.1", "Host: my.kv"))
                await origin.sends(OK)
                await coming.response()
        assert net.dials == 6


@in_trio
async def test_a_kept_connection_that_the_guard_refuses_now_is_closed_and_not_used() -> None:
    async with internet() as net:
        _, origin = await ask(net)
        net.guarded.add("198.51.100.1")
        coming = net.fetch("http://my.kv/")
        await origin.hears_the_end()
        await net.dialled()
        assert not coming.is_done


@in_trio
async def test_a_kept_connection_to_an_address_under_another_rule_now_is_closed_and_not_used() -> None:
    ruled: set[str] = set()

    def decides(ip: str, port: int) -> bool:
        return (ip, port) == ("198.51.100.7", 80) and ip not in ruled

    async with internet() as net:
        for count in range(2):
            coming = passing(net, "198.51.100.7", decides)
            if count == 0:
                origin = await net.dialled(at="198.51.100.7")
            await origin.gets(http("GET / HTTP/1.1", "Host: my.kv"))
            await origin.sends(OK)
            await coming.response()
        ruled.add("198.51.100.7")
        coming = passing(net, "198.51.100.7", decides)
        await origin.hears_the_end()
        await net.dialled(at="198.51.100.7")
        assert not coming.is_done


@pytest.mark.parametrize("length", [None, 20])
@pytest.mark.parametrize("method", ["GET", "DELETE", "OPTIONS", "get", "PURGE"])
@in_trio
async def test_unusual_content_has_a_connection_of_its_own(method: str, length: int | None) -> None:
    async with internet() as net:
        _, kept = await ask(net)
        request = Request("http://my.kv/")
        request.method, request.body = method, Body(slowly(b"GET /x HTTP/1.1\r\n\r\n"[:20].ljust(20)), length)
        coming = net.fetch(request)
        alone = await net.dialled()
        framing = "transfer-encoding: chunked" if length is None else "content-length: 20"
        await alone.gets(http(f"{method} / HTTP/1.1", "host: my.kv", framing, "connection: close"))
        await trio.sleep(2)
        await alone.sends(OK + http("HTTP/1.1 200 OK", "content-length: 5", body=b"other"))
        assert await (await coming.response()).text() == "ok"
        await everything_closed(alone)
        await ask(net, kept)
        assert net.dials == 2


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "QUERY", "PROPFIND", "REPORT", "SEARCH", "MINE"])
@in_trio
async def test_usual_content_keeps_its_connection(method: str) -> None:
    async with trio.open_nursery() as nursery:
        net = Internet(nursery)
        async with open_client(net, content_methods=["MINE"]) as net.client:
            _, kept = await ask(net)
            coming = net.fetch(Request("http://my.kv/", method, body="x"))
            await kept.gets(http(f"{method} / HTTP/1.1", "host: my.kv", "content-length: 1", body=b"x"))
            await kept.sends(OK)
            assert (await coming.response()).ok
            await ask(net, kept)
            assert net.dials == 1


@in_trio
async def test_two_at_once_have_a_connection_each() -> None:
    async with internet() as net:
        first, second = net.fetch("http://my.kv/1"), net.fetch("http://my.kv/2")
        origins = [await net.dialled(), await net.dialled()]
        for origin in origins:
            await origin.sends(OK)
        await first.response()
        await second.response()
        third = net.fetch("http://my.kv/3")
        await trio.testing.wait_all_tasks_blocked()
        for origin in origins:
            await origin.sends(OK)
        await third.response()
        assert net.dials == 2


@in_trio
async def test_an_idle_connection_is_closed_after_a_while() -> None:
    async with internet() as net:
        _, origin = await ask(net)
        await trio.sleep(2 * IDLE_SECONDS)
        await origin.hears_the_end()


@pytest.mark.parametrize("body", [b"", b"x" * 100_000], ids=["small", "large"])
@in_trio
async def test_a_kept_connection_that_turns_out_dead_is_tried_anew_once(body: bytes) -> None:
    async with internet() as net:
        _, origin = await ask(net)
        coming = net.fetch(Request("http://my.kv/", "PUT", body=body))
        await trio.testing.wait_all_tasks_blocked()
        await origin.closes()
        again = await net.dialled()
        await again.gets(http("PUT / HTTP/1.1", "host: my.kv", f"content-length: {len(body)}", body=body))
        await again.sends(OK)
        assert (await coming.response()).ok


@in_trio
async def test_a_request_that_must_not_be_repeated_is_not() -> None:
    async with internet() as net:
        _, origin = await ask(net)
        coming = net.fetch(Request("http://my.kv/", "POST", body="pay"))
        await trio.testing.wait_all_tasks_blocked()
        await origin.closes()
        with pytest.raises(FetchError):
            await coming.response()
        assert net.dials == 1


@in_trio
async def test_a_response_that_is_closed_unread_closes_its_connection() -> None:
    async with internet() as net:
        response, origin = await ask(net, answer=http("HTTP/1.1 200 OK", "content-length: 5"))
        await response.aclose()
        await origin.hears_the_end()
        with pytest.raises(FetchError, match="closed"):
            await response.bytes()


@in_trio
async def test_a_closed_client_closes_everything_and_fetches_no_more() -> None:
    async with internet() as net:
        _, kept = await ask(net)
        response, _ = await ask(net, kept, http("HTTP/1.1 200 OK", "content-length: 5"))
        coming = net.fetch("http://my.kv/")
        asked = await net.dialled()
        await net.client.aclose()
        for origin in (kept, asked):
            await everything_closed(origin)
        with pytest.raises(FetchError):
            await coming.response()
        with pytest.raises(FetchError):
            await response.bytes()
        with pytest.raises(RuntimeError, match="closed"):
            await net.client.fetch(Request("http://my.kv/"))


async def everything_closed(origin: Origin) -> None:
    """Asserts that the client has closed the connection; bytes that came before are ignored."""
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(trio.BrokenResourceError):
        await origin.stream.send_all(b"x")


# --- redirects ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "status", "then"),
    [
        ("GET", 301, "GET"),
        ("HEAD", 303, "HEAD"),
        ("POST", 302, "GET"),
        ("PUT", 303, "GET"),
        ("PUT", 302, "PUT"),
        ("POST", 307, "POST"),
        ("POST", 308, "POST"),
    ],
)
@in_trio
async def test_a_redirect_is_followed_with_the_method_that_browsers_use(method: str, status: int, then: str) -> None:
    body = "x" if method in ("POST", "PUT") else None
    fields = {"authorization": "secret", "content-type": "a/b", "x": "y"}
    async with internet() as net:
        coming = net.fetch(Request("http://my.kv/a", method, fields, body))
        origin = await net.dialled()
        await origin.sends(http(f"HTTP/1.1 {status} Moved", "location: //other.kv/b", "content-length: 0"))
        other = await net.dialled("other.kv")
        kept = ["content-type: a/b", "x: y", "content-length: 1"] if body and then == method else ["x: y"]
        if body is None:
            kept = ["content-type: a/b", "x: y"]
        await other.gets(http(f"{then} /b HTTP/1.1", "host: other.kv", *kept, body=b"x" if len(kept) == 3 else b""))
        await other.sends(http("HTTP/1.1 204 No Content"))
        assert (await coming.response()).status == 204


@in_trio
async def test_a_redirect_within_the_origin_keeps_its_secrets_and_its_permission() -> None:
    async with internet() as net:
        coming = net.fetch(Request("http://my.kv/a", headers={"cookie": "secret"}), local=True)
        origin = await net.dialled(local=True)
        await origin.gets(http("GET /a HTTP/1.1", "host: my.kv", "cookie: secret"))
        await origin.sends(http("HTTP/1.1 302 Found", "location: /b", "content-length: 0"))
        await origin.gets(http("GET /b HTTP/1.1", "host: my.kv", "cookie: secret"))
        await origin.sends(http("HTTP/1.1 302 Found", "location: http://my.kv:81/", "content-length: 0"))
        other = await net.dialled(port=81, local=False)
        await other.gets(http("GET / HTTP/1.1", "host: my.kv:81"))
        await other.sends(OK)
        assert (await coming.response()).ok


@in_trio
async def test_a_redirect_that_needs_a_stream_again_is_an_error() -> None:
    async with internet() as net:
        coming = net.fetch(Request("http://my.kv/a", "POST", body=slowly(b"x")))
        origin = await net.dialled()
        await origin.gets(http("POST /a HTTP/1.1", "host: my.kv", "transfer-encoding: chunked"))
        await origin.gets(b"1\r\nx\r\n0\r\n\r\n")
        await origin.sends(http("HTTP/1.1 307 Temporary Redirect", "location: /b", "content-length: 0"))
        with pytest.raises(FetchError, match="stream"):
            await coming.response()


@pytest.mark.parametrize("location", ["ftp://my.kv/", "http://:80/", "http://a b/", "javascript:x"])
@in_trio
async def test_a_redirect_to_an_invalid_url_is_an_error(location: str) -> None:
    async with internet() as net:
        coming = net.fetch("http://my.kv/")
        origin = await net.dialled()
        await origin.sends(http("HTTP/1.1 302 Found", f"location: {location}", "content-length: 0"))
        with pytest.raises(FetchError, match="redirect"):
            await coming.response()


@in_trio
async def test_redirects_have_an_end() -> None:
    async with internet() as net:
        coming = net.fetch("http://my.kv/")
        origin = await net.dialled()
        while not coming.is_done:
            await origin.sends(http("HTTP/1.1 302 Found", "location: /", "content-length: 0"))
            await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(FetchError, match="20 redirects"):
            await coming.response()


@in_trio
async def test_a_redirect_may_be_left_to_the_caller() -> None:
    async with internet() as net:
        coming = net.fetch("http://my.kv/", redirect="manual")
        origin = await net.dialled()
        await origin.sends(http("HTTP/1.1 302 Found", "location: /b", "content-length: 0"))
        response = await coming.response()
        assert (response.status, response.headers["location"]) == (302, "/b")


# --- what cannot be fetched -----------------------------------------------------------------------------------------


@in_trio
async def test_an_invalid_fetch_is_refused_before_anything_is_dialled() -> None:
    async with internet() as net:
        for method in ("CONNECT", "TRACE", "connect"):
            with pytest.raises(ValueError, match="fetched"):
                await net.client.fetch(Request("http://my.kv/", method))
        request = Request("http://my.kv/", "POST", body="x")
        await request.bytes()
        with pytest.raises(RuntimeError, match="already"):
            await net.client.fetch(request)
        request = Request("http://my.kv/")
        request.method = "GET / HTTP/1.1\r\nx: y\r\n\r\nGET"
        with pytest.raises(ValueError, match="method"):
            await net.client.fetch(request)
        assert net.dials == 0


@in_trio
async def test_cancelled_at_any_moment_a_fetch_leaves_no_connection_open() -> None:
    """Cancels the fetch at each step of a dialogue: the connection is closed, and the next fetch works."""
    steps = [b"HTTP/1.1 2", b"00 OK\r\ncontent-length: 4\r\n\r\n", b"on", b"e!"]
    for count in range(len(steps)):
        async with internet() as net:

            async def read() -> Response:
                response = await net.client.fetch(Request("http://my.kv/", "PUT", body=slowly(b"x" * 20_000)))
                return Response(await response.bytes())

            coming = net.start(read)
            origin = await net.dialled()
            await origin.gets(http("PUT / HTTP/1.1", "host: my.kv", "transfer-encoding: chunked"))
            for step in steps[:count]:
                await origin.sends(step)
                await trio.testing.wait_all_tasks_blocked()
            coming.scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            _, other = await ask(net)
            assert other is not origin
            await net.client.aclose()
            await everything_closed(origin)
