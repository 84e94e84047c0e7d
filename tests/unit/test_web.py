"""The objects of handlers: URLs, headers, bodies, requests and responses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from pyinterceptor.web import URL, Body, Headers, Request, Response
from pyinterceptor.web.url import split_host

# --- URL ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "host", "port", "path", "query", "whole"),
    [
        ("http://my.kv", "my.kv", 80, "/", "", "http://my.kv/"),
        ("HTTP://My.KV:80/A?b=C#d", "my.kv", 80, "/A", "b=C", "http://my.kv/A?b=C"),
        ("https://my.kv:8443?b", "my.kv", 8443, "/", "b", "https://my.kv:8443/?b"),
        ("https://my.kv:443/", "my.kv", 443, "/", "", "https://my.kv/"),
        ("http://my.kv:/", "my.kv", 80, "/", "", "http://my.kv/"),
        ("http://[2001:DB8:0::1]:8080/", "2001:db8::1", 8080, "/", "", "http://[2001:db8::1]:8080/"),
        ("http://203.0.113.7/a%2Fb/../c;d", "203.0.113.7", 80, "/c;d", "", "http://203.0.113.7/c;d"),
        ("http://my.kv//a?b?c", "my.kv", 80, "//a", "b?c", "http://my.kv//a?b?c"),
        ("http://my.kv/a?", "my.kv", 80, "/a", "", "http://my.kv/a?"),
        ("http://Bücher.example/ü?ß", "xn--bcher-kva.example", 80, "/%C3%BC", "%C3%9F", None),
    ],
)
def test_a_url_is_taken_apart(text: str, host: str, port: int, path: str, query: str, whole: str | None) -> None:
    url = URL(text)
    assert (url.host, url.port, url.path, url.query) == (host, port, path, query)
    assert str(url) == whole or whole is None
    assert URL(str(url)) == url == URL(url)
    assert hash(URL(str(url))) == hash(url)


@pytest.mark.parametrize(
    "text",
    ["", "/a", "my.kv", "ftp://my.kv/", "http:my.kv", "http:///a", "http://", "http://:80/", "http://my.kv:65536/"]
    + ["http://my.kv:8a/", "http://my.kv:-1/", "http://a b/", "http://my.kv/a b", "http://my.kv/\r\nx", "http://my\0.kv"]
    + ["http://user@my.kv/", "http://user:password@my.kv/", "http://[::1/", "http://[::g]/", "http://::1/", "http://a\\b/"],
)
def test_a_url_that_is_not_absolute_http_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="."):
        URL(text)


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("/a/../b", "/b"),
        ("/a/%2e%2E/b", "/b"),
        ("/a/.%2e/b", "/b"),
        ("/a/%2E./b", "/b"),
        ("/../../etc/passwd", "/etc/passwd"),
        ("/a/./b/%2e/c", "/a/b/c"),
        ("/a/b/..", "/a/"),
        ("/a/b/.", "/a/b/"),
        ("/a//../b", "/a/b"),
        ("/a\\..\\b", "/b"),
        ("/..", "/"),
        ("/...", "/..."),
        ("/.a/..b/%2ec/c..", "/.a/..b/%2ec/c.."),
        ("/a%2F..%2Fb", "/a%2F..%2Fb"),
        ("/a%252e%252e/b", "/a%252e%252e/b"),
    ],
)
def test_a_path_is_normalised_as_the_url_standard_does(given: str, path: str) -> None:
    assert URL(f"http://my.kv{given}?/../x").target == f"{path}?/../x"
    request = Request.incoming("GET", given, ("http", "my.kv", 80, given), "", None)
    assert (request.url.path, request.target) == (path, given)
    assert URL(str(request.url)) == request.url


def test_a_url_never_changes() -> None:
    with pytest.raises(AttributeError):
        URL("http://my.kv/").host = "other"


@pytest.mark.parametrize(
    ("reference", "whole"),
    [
        ("b", "http://my.kv:8080/a/b"),
        ("/b", "http://my.kv:8080/b"),
        ("?b", "http://my.kv:8080/a/c?b"),
        ("//other/b", "http://other/b"),
        ("https://other", "https://other/"),
        ("../../b", "http://my.kv:8080/b"),
    ],
)
def test_a_reference_is_resolved_at_its_url(reference: str, whole: str) -> None:
    assert str(URL("http://my.kv:8080/a/c?d").join(reference)) == whole


def test_the_query_is_decoded_on_request() -> None:
    assert URL("http://my.kv/?a=1&b=%20x+y&a=2&c").search_params == {"a": ["1", "2"], "b": [" x y"], "c": [""]}


def test_a_host_field_is_a_host_and_maybe_a_port() -> None:
    assert split_host("My.kv:8080") == ("my.kv", 8080)
    assert split_host("[::1]") == ("::1", None)
    with pytest.raises(ValueError, match="host"):
        split_host("my.kv:80:80")


# --- headers --------------------------------------------------------------------------------------------------------


def test_headers_know_no_case_and_keep_order_spelling_and_number() -> None:
    headers = Headers([("Set-Cookie", "a=1"), ("X", "y"), ("set-cookie", " b=2\t")])
    assert headers["SET-COOKIE"] == "a=1, b=2"
    assert headers.getall("set-cookie") == ["a=1", "b=2"]
    assert list(headers.items()) == [("Set-Cookie", "a=1"), ("X", "y"), ("set-cookie", "b=2")]
    assert "x" in headers
    assert len(headers) == 3
    assert headers.get("absent") is None
    assert headers.getall("absent") == []


def test_headers_are_set_appended_and_deleted() -> None:
    headers = Headers({"a": "1"})
    headers["A"] = "2"
    headers.append("a", "3")
    assert headers.getall("a") == ["2", "3"]
    headers.set("a", "4")
    assert headers.getall("a") == ["4"]
    del headers["a"]
    headers.delete("a")
    with pytest.raises(KeyError):
        headers["a"]
    assert headers == Headers()


def test_headers_given_to_two_are_two() -> None:
    first = Headers({"a": "1"})
    response, request = Response("x", headers=first), Request("http://my.kv", headers=first)
    response.headers["a"] = "2"
    request.headers["a"] = "3"
    assert first["a"] == "1"
    assert "content-type" not in first


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\n", "ä", "a\0", "(a)", " a"])
def test_a_field_name_that_is_not_a_token_is_refused(name: str) -> None:
    for change in (lambda: Headers({name: "x"}), lambda: Headers().set(name, "x"), lambda: Headers().append(name, "x")):
        with pytest.raises(ValueError, match="name"):
            change()


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb", "a\rb", "a\0b", "a\x7fb", "a\x1bb", "\u0100"])
def test_a_value_that_could_end_its_line_is_refused(value: str) -> None:
    headers = Headers()
    for change in (lambda: Headers({"a": value}), lambda: headers.set("a", value), lambda: headers.append("a", value)):
        with pytest.raises(ValueError, match="byte"):
            change()
    assert len(headers) == 0
    assert Headers({"a": "tab\tand é"})["a"] == "tab\tand é"


# --- bodies ---------------------------------------------------------------------------------------------------------


async def chunks(*parts: bytes | str) -> AsyncIterator[bytes | str]:
    for part in parts:
        yield part


@pytest.mark.parametrize(
    ("content", "length"),
    [(b"h\xc3\xa9", 3), ("hé", 3), (bytearray(b"h\xc3\xa9"), 3), (memoryview(b"h\xc3\xa9"), 3), (None, 0)]
    + [(("h", b"", "é"), None)],
)
def test_a_body_is_read_as_bytes_text_or_chunks(content, length) -> None:
    async def main() -> None:
        def body() -> Body:
            return Body(chunks(*content) if isinstance(content, tuple) else content)

        whole = b"" if content is None else b"h\xc3\xa9"
        assert body().length == length
        assert await body().bytes() == whole
        assert await body().text() == whole.decode()
        assert b"".join([chunk async for chunk in body()]) == whole
        assert all([chunk async for chunk in body()])

    asyncio.run(main())


def test_a_body_is_read_once() -> None:
    async def main() -> None:
        for body in (Body("x"), Body(chunks("x"))):
            await body.bytes()
            with pytest.raises(RuntimeError, match="already"):
                await body.bytes()
            with pytest.raises(RuntimeError, match="already"):
                aiter(body)

    asyncio.run(main())


def test_a_body_of_another_type_is_refused() -> None:
    with pytest.raises(TypeError, match="int"):
        Body(5)
    with pytest.raises(TypeError, match="list"):
        Body([b"x"])

    async def main() -> None:
        with pytest.raises(TypeError, match="int"):
            await Body(chunks(5)).bytes()

    asyncio.run(main())


def test_closing_a_body_closes_its_generator_at_any_point() -> None:
    closed = []

    async def made(name: str) -> AsyncIterator[bytes]:
        try:
            yield b"1"
            yield b"2"
        finally:
            closed.append(name)

    class Made:
        def __aiter__(self) -> AsyncIterator[bytes]:
            return made("of a class")

    async def main() -> None:
        for content in (made("a generator"), Made()):
            body = Body(content)
            async for _ in body:
                break
            await body.aclose()
            await body.aclose()

    asyncio.run(main())
    assert closed == ["a generator", "of a class"]


def test_json_and_text_of_messages() -> None:
    async def main() -> None:
        assert await Request("http://my.kv", "post", body='{"a": 1}').json() == {"a": 1}
        assert await Response.json({"a": 1}).json() == {"a": 1}
        assert await Response(b"\xff").text() == "\ufffd"
        with pytest.raises(ValueError, match="."):
            await Response("{").json()

    asyncio.run(main())


def test_json_of_the_class_makes_a_response() -> None:
    response = Response.json({"a": [1, None]}, status=201, headers={"x": "y"})
    assert (response.status, response.headers["x"]) == (201, "y")
    assert response.headers["content-type"] == "application/json"
    assert asyncio.run(response.json()) == {"a": [1, None]}
    linked = Response.json(1, headers={"content-type": "application/ld+json"})
    assert linked.headers["content-type"] == "application/ld+json"

    class Own(Response):
        pass

    assert isinstance(Own.json(1), Own)


def test_a_redirect_names_its_place() -> None:
    response = Response.redirect("http://my.kv/a/../b?c")
    assert (response.status, response.headers["location"]) == (302, "http://my.kv/b?c")
    assert Response.redirect(URL("https://my.kv"), 308).status == 308
    for status in (200, 300, 304, 305, 400):
        with pytest.raises(ValueError, match="redirect"):
            Response.redirect("http://my.kv/", status)
    with pytest.raises(ValueError, match="absolute"):
        Response.redirect("/b")


# --- requests and responses -----------------------------------------------------------------------------------------


def test_a_request_has_a_method_that_is_one() -> None:
    assert Request("http://my.kv", "post").method == "POST"
    assert Request("http://my.kv", "Purge").method == "Purge"
    for method in ("", "GET /", "GET\r\nx: y", "G:T"):
        with pytest.raises(ValueError, match="method"):
            Request("http://my.kv", method)


def test_a_text_response_gets_a_content_type_unless_one_is_given() -> None:
    assert Response("x").headers["content-type"] == "text/plain; charset=utf-8"
    assert Response("x", headers={"Content-Type": "text/html"}).headers["content-type"] == "text/html"
    assert Response("x", headers={"a": "b"}).headers["content-type"] == "text/plain; charset=utf-8"
    assert "content-type" not in Response(b"x").headers
    assert Response.json([]).headers["content-type"] == "application/json"


@pytest.mark.parametrize("status", [0, 101, 199, 600, "200", "200 OK\r\nx: y", None, 200.0])
def test_a_status_that_is_none_is_refused_when_it_is_given(status) -> None:
    with pytest.raises((ValueError, TypeError)):
        Response("x", status)
    response = Response("x", 299)
    assert response.ok
    with pytest.raises((ValueError, TypeError)):
        response.status = status
    assert response.status == 299


def test_assigned_values_of_a_response_are_checked_like_arguments() -> None:
    response = Response("x")
    response.headers, response.body, response.status = {"a": "b"}, "y", 404
    assert isinstance(response.headers, Headers)
    assert response.body.content == b"y"
    assert not response.ok
    with pytest.raises(ValueError, match="byte"):
        response.headers = {"a": "b\r\nc: d"}
    with pytest.raises(TypeError):
        response.body = 5


# --- a request made from another ------------------------------------------------------------------------------------


def original(method: str = "POST", body: Any = "the body") -> Request:
    place = ("http", "my.kv", 80, "/a?b")
    return Request.incoming(method, "/a?b", place, "Host: my.kv\r\nA: 1", None if body is None else Body(body))


def test_a_copy_of_a_request_has_all_of_it_and_takes_its_body() -> None:
    async def main() -> None:
        for body in ("the body", chunks("the ", b"body")):
            first = original(body=body)
            copy = Request(first)
            assert (copy.method, str(copy.url), copy.target) == ("POST", "http://my.kv/a?b", "/a?b")
            assert copy.headers == first.headers
            copy.headers["a"] = "2"
            assert first.headers["a"] == "1"
            assert first.body.is_used
            with pytest.raises(RuntimeError, match="read already"):
                await first.text()
            assert await copy.text() == "the body"

    asyncio.run(main())


def test_a_copy_of_a_request_may_have_another_method_other_headers_and_another_body() -> None:
    async def main() -> None:
        first = original()
        copy = Request(first, "put", {"b": "2"}, "another")
        assert (copy.method, list(copy.headers.items()), await copy.text()) == ("PUT", [("b", "2")], "another")
        assert await first.text() == "the body"
        assert await Request(first, body=b"once more").text() == "once more"
        with pytest.raises(RuntimeError, match="read already"):
            Request(first, headers={"b": "2"})

    asyncio.run(main())


def test_a_copy_keeps_the_length_and_the_source_of_the_body() -> None:
    class Sourced:
        source = object()

        def __aiter__(self) -> AsyncIterator[bytes]:
            return chunks(b"x")

    body = Body(Sourced(), 1)
    copy = Request(Request("http://my.kv", "POST", body=body))
    assert (copy.body.length, copy.body.source) == (1, Sourced.source)
    assert body.source is None


def test_a_request_without_a_body_can_be_copied_also_after_it_was_read() -> None:
    async def main() -> None:
        for first in (original("GET", None), Request("http://my.kv"), original("GET", b"")):
            assert await first.bytes() == b""
            assert await Request(Request(first), headers={}).bytes() == b""
            assert Request(first, "HEAD").method == "HEAD"

    asyncio.run(main())


def test_a_copy_that_becomes_a_get_must_not_have_a_body() -> None:
    first = original()
    with pytest.raises(TypeError, match=r"^Request\(request, 'get'\): a get has no body, the request has one;"):
        Request(first, "get")
    assert not first.body.is_used
    assert Request(first, "GET", body=b"").body.content == b""
    assert Request(original("GET"), headers={}).body.content == b"the body"  # a container's own GET may have a body


def test_closing_the_original_ends_the_body_of_its_copy() -> None:
    closed = []

    async def made() -> AsyncIterator[bytes]:
        try:
            yield b"1"
            yield b"2"
        finally:
            closed.append(True)

    async def main() -> None:
        first = original(body=made())
        async for _ in Request(first).body:
            break
        await first.body.aclose()

    asyncio.run(main())
    assert closed == [True]


# --- values of another type -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Headers({"a": 1}), "the value of a must be str, not int: 1"),
        (lambda: Headers([("a", b"x")]), "the value of a must be str, not bytes: b'x'"),
        (lambda: Headers().set("a", None), "the value of a must be str, not NoneType: None"),
        (lambda: Headers({1: "x"}), "a header field's name must be str, not int: 1"),
        (lambda: Headers({}).get(1), "a header field's name must be str, not int: 1"),
        (lambda: Headers({}).getall(1), "a header field's name must be str, not int: 1"),
        (lambda: Headers({})[1], "a header field's name must be str, not int: 1"),
        (lambda: Headers({}).delete(1), "a header field's name must be str, not int: 1"),
        (lambda: Headers("a: b"), "headers are a mapping or pairs of name and value, not 'a: b'"),
        (lambda: Headers(5), "headers are a mapping or pairs of name and value, not 5"),
        (lambda: Headers(["ab"]), "headers are pairs of name and value; 'ab' is not a pair"),
        (lambda: Response("x", headers={"a": 1}), "the value of a must be str, not int: 1"),
        (lambda: Request("http://my.kv", headers={"a": 1}), "the value of a must be str, not int: 1"),
        (lambda: Request("http://my.kv", 5), "a method is a str, not int"),
        (lambda: Request(5), "a URL is a str, not int: 5"),
        (lambda: Request(None), "a URL is a str, not NoneType: None"),
    ],
)
def test_a_value_of_another_type_is_refused_in_a_sentence(make: Callable[[], object], why: str) -> None:
    with pytest.raises(TypeError) as caught:
        make()
    assert str(caught.value) == why
