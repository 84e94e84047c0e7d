"""A container's request, from its connection to a handler, an origin or a readable refusal, without sockets."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from pyinterceptor._relay import lib

from pyinterceptor import BindingError, Container, DialRefused, FetchError, Headers, Request, Response, fetch
from pyinterceptor.app.container import container_id
from pyinterceptor.app.policy import policy_of
from pyinterceptor.dns.names import SYNTHETIC as SYNTHETIC_NETWORKS
from pyinterceptor.http.client import open_client
from pyinterceptor.http.dial import Dialer
from pyinterceptor.policy.addresses import packed
from pyinterceptor.policy.budget import Budget
from pyinterceptor.relay.records import Cause
from pyinterceptor.relay.relay import Handoff
from pyinterceptor.serving.channel import Channel
from pyinterceptor.serving.container import Identity
from pyinterceptor.serving.log import Log
from pyinterceptor.serving.requests import Outbound
from pyinterceptor.serving.run import Run
from tests.socket.loopback import nowhere
from tests.stream.dialogue import GET, Client, http, in_trio, ok, serving
from tests.stream.origins import Internet, Unguarded, internet

REAL, SYNTHETIC, SYNTHETIC_V6 = "198.51.100.7", "198.18.1.0", "fd70:7969:6e74:1::100"
OK = http("HTTP/1.1 200 OK", "content-length: 2", body=b"ok")
GUARDED = "its address is local to the host, and local_networks doesn't name it"
TEXT = "content-type: text/plain; charset=utf-8"


def refusal(status: str, why: str) -> bytes:
    begin = "Origin is disallowed" if status.startswith("520") else "pyinterceptor"
    body = f"{begin}: {why}\n".encode()
    return http(f"HTTP/1.1 {status}", TEXT, f"content-length: {len(body)}", body=body)


@asynccontextmanager
async def container(
    cls: type[Container], net: Internet, destination: str = REAL, *, port: int = 80, cause: Cause = Cause.DONE
) -> AsyncIterator[Client]:
    """Yields a client inside a container of this class, connected to `destination`."""
    async with running(cls, net) as run:
        outbound = Outbound(run, {"an": "env"}, handoff(destination, port, cause))
        async with serving(outbound.respond, destination=(destination, port)) as client:
            yield client
        assert run.running == 0


@asynccontextmanager
async def running(cls: type[Container], net: Internet) -> AsyncIterator[Run]:
    """Yields a running container of this class, without network and processes."""
    identity = Identity(cls, "one", None, policy_of(cls, 1))
    async with trio.open_nursery() as nursery:
        yield Run(identity, nowhere(7), net.client, nursery, SYNTHETIC_NETWORKS, Channel(), Log())


def handoff(destination: str, port: int = 80, cause: Cause = Cause.DONE) -> Handoff:
    """Returns a flow to this destination, as the relay hands it over."""
    return Handoff(
        fd=-1,
        flow=1,
        container=7,
        protocol=lib.PROTOCOL_HTTP,
        verdict=lib.VERDICT_HANDLE,
        rule=0,
        generation=1,
        cause=cause,
        client=(ipaddress.IPv4Address("100.64.0.2"), 40000),
        destination=(ipaddress.ip_address(destination), port),
        host="",
        is_synthetic=False,
        began=1.0,
        judged=2.0,
        connected=0.0,
    )


def passing() -> type[Container]:
    class Passing(Container):
        """No rules."""

    return Passing


def handled_by(handler: Any) -> type[Container]:
    class Handled(Container):
        """One name has a handler."""

    Handled.outbound_by_host = {"my.kv": handler}
    return Handled


# --- handlers -------------------------------------------------------------------------------------------------------


@in_trio
async def test_a_handler_is_given_the_request_the_env_and_whose_it_is() -> None:
    async def look(request: Any, env: Any, ctx: Any) -> Response:
        return Response(f"{request.url} {env['an']} {ctx.class_name} {ctx.container_name} {ctx.container_id}")

    async with internet() as net, container(handled_by(look), net) as client:
        await client.sends(GET)
        await client.gets(ok("http://my.kv/ env Handled one " + container_id("Handled", "one")))


@in_trio
async def test_a_handler_may_be_a_plain_function() -> None:
    async with internet() as net, container(handled_by(lambda request, env, ctx: Response("ok")), net) as client:
        await client.sends(GET)
        await client.gets(ok())


async def without_return(request: Any, env: Any, ctx: Any) -> Any:
    pass


async def without_response(request: Any, env: Any, ctx: Any) -> Any:
    return "ok"


async def without_await(request: Any, env: Any, ctx: Any) -> Any:
    return fetch(request)


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        (without_return, "returned None, not a Response; is a `return` or an `await` missing?"),
        (without_response, "returned a str, not a Response; wrap it in Response(…), or is an `await` missing?"),
        (without_await, "returned a coroutine, not a Response; is an `await` missing?"),
    ],
)
@pytest.mark.usefixtures("expected_errors")
@in_trio
async def test_a_handler_that_returns_no_response_is_a_500_and_the_log_names_its_line(
    handler: Any, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with internet() as net, container(handled_by(handler), net) as client:
        await client.sends(GET)
        await client.gets(refusal("500 Internal Server Error", "the handler failed"))
        assert f"{handler.__name__} ({__file__}:{handler.__code__.co_firstlineno}) {why}" in caplog.text


async def with_asyncio(request: Any, env: Any, ctx: Any) -> Response:
    await asyncio.sleep(1)
    return Response("ok")


@pytest.mark.usefixtures("expected_errors")
@in_trio
async def test_a_handler_that_calls_asyncio_is_a_500_and_the_log_names_the_line_and_trio(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with internet() as net, container(handled_by(with_asyncio), net) as client:
        await client.sends(GET)
        await client.gets(refusal("500 Internal Server Error", "the handler failed"))
        place = f"with_asyncio ({__file__}:{with_asyncio.__code__.co_firstlineno + 1})"
        assert f"{place}: handlers run under Trio, not asyncio; use trio.sleep() for asyncio.sleep()" in caplog.text


@in_trio
async def test_a_policy_that_is_replaced_decides_the_next_request_of_an_open_connection() -> None:
    async with internet() as net:
        first, second = (
            policy_of(handled_by(lambda *_, text=text: Response(text)), generation)
            for generation, text in ((2, "one"), (3, "two"))
        )
        async with (
            running(passing(), net) as run,
            serving(Outbound(run, None, handoff(REAL)).respond) as client,
        ):
            run.identity.policies.replace(first)
            await client.sends(GET)
            await client.gets(ok("one"))
            run.identity.policies.replace(second)
            await client.sends(GET)
            await client.gets(ok("two"))
            await client.sends(GET.replace(b"my.kv", b"MY.kv."))
            await client.gets(ok("two"))


# --- fetch in a handler ---------------------------------------------------------------------------------------------


@in_trio
async def test_fetch_passes_a_request_on_and_its_response_back_as_they_came() -> None:
    async def pass_on(request: Any, env: Any, ctx: Any) -> Response:
        return await fetch(request)

    async with internet() as net, container(handled_by(pass_on), net) as client:
        head = ("POST /a?b HTTP/1.1", "B: 1", "Host: my.kv", "a: 2", "Accept-Encoding: gzip, br", "Content-Length: 5")
        await client.sends(http(*head, body=b"hel"))
        origin = await net.dialled()
        await origin.gets(http(*head, body=b"hel"))
        await client.sends(b"lo")
        await origin.gets(b"lo")
        fields = ("Content-Encoding: gzip", "Set-Cookie: a", "X: y", "Set-Cookie: b", "Date: Mon, 24 Nov 2025")
        await origin.sends(http("HTTP/1.1 404 Nothing Here", *fields, "Content-Length: 4", body=b"\x1f\x8b\0\0"))
        await client.gets(http("HTTP/1.1 404 Not Found", *fields, "content-length: 4", body=b"\x1f\x8b\0\0"))


@in_trio
async def test_fetch_refuses_a_way_of_redirects_that_it_does_not_know() -> None:
    refused = []

    async def ask(request: Any, env: Any, ctx: Any) -> Response:
        for wrong in ("Follow", "error", 5, True):
            with pytest.raises(ValueError, match=r'^fetch\(redirect=…\) takes "follow" or "manual", not ') as caught:
                await fetch("http://my.kv/", redirect=wrong)  # type: ignore[arg-type]
            refused.append(caught)
        return await fetch(request, redirect="manual")

    async with internet() as net, container(handled_by(ask), net) as client:
        await client.sends(http("GET / HTTP/1.1", "Host: my.kv"))
        origin = await net.dialled()
        await origin.gets(http("GET / HTTP/1.1", "Host: my.kv"))
        await origin.sends(OK)
        await client.gets(OK)
    assert len(refused) == 4


@in_trio
async def test_fetch_passes_on_a_copy_of_a_request_with_other_headers_while_its_body_still_comes() -> None:
    async def with_another_field(request: Any, env: Any, ctx: Any) -> Response:
        headers = Headers(request.headers)
        headers.set("token", "secret")
        return await fetch(Request(request, headers=headers))

    async with internet() as net, container(handled_by(with_another_field), net) as client:
        head = ("POST /a?b HTTP/1.1", "Host: my.kv", "a: 2", "Content-Length: 5")
        await client.sends(http(*head, body=b"hel"))
        origin = await net.dialled()
        await origin.gets(http(*head, "token: secret", body=b"hel"))
        await client.sends(b"lo")
        await origin.gets(b"lo")
        await origin.sends(http("HTTP/1.1 302 Found", "Location: /elsewhere", "Content-Length: 0"))
        await client.gets(http("HTTP/1.1 302 Found", "Location: /elsewhere", "content-length: 0"))


@in_trio
async def test_fetch_frames_a_copy_of_a_request_by_its_own_body() -> None:
    async def with_another_body(request: Any, env: Any, ctx: Any) -> Response:
        return await fetch(Request(request, "PUT", body=b"longer than it was"))

    async with internet() as net, container(handled_by(with_another_body), net) as client:
        await client.sends(http("POST / HTTP/1.1", "Host: my.kv", "Content-Length: 5", body=b"hello"))
        origin = await net.dialled()
        await origin.gets(http("PUT / HTTP/1.1", "Host: my.kv", "Content-Length: 18", body=b"longer than it was"))
        await origin.sends(OK)
        await client.gets(OK)


@pytest.mark.parametrize("framing", ["content-length: 3", "transfer-encoding: chunked"])
@in_trio
async def test_a_response_to_head_is_passed_on_with_its_content_length(framing: str) -> None:
    async def pass_on(request: Any, env: Any, ctx: Any) -> Response:
        return await fetch(request)

    async with internet() as net, container(handled_by(pass_on), net) as client:
        await client.sends(http("HEAD / HTTP/1.1", "Host: my.kv"))
        origin = await net.dialled()
        await origin.sends(http("HTTP/1.1 200 OK", framing))
        await client.gets(http("HTTP/1.1 200 OK", *([framing] if "length" in framing else [])))
        await client.sends(http("HEAD / HTTP/1.1", "Host: my.kv"))
        await origin.sends(http("HTTP/1.1 304 Not Modified", "content-length: 3"))
        await client.gets(http("HTTP/1.1 304 Not Modified", "content-length: 3"))
        assert net.dials == 1


@in_trio
async def test_a_redirect_of_a_passed_on_request_is_the_containers_to_follow() -> None:
    async def pass_on(request: Any, env: Any, ctx: Any) -> Response:
        return await fetch(request)

    async with internet() as net, container(handled_by(pass_on), net) as client:
        await client.sends(GET)
        origin = await net.dialled()
        await origin.sends(http("HTTP/1.1 302 Found", "location: http://127.0.0.1/", "content-length: 0"))
        await client.gets(http("HTTP/1.1 302 Found", "location: http://127.0.0.1/", "content-length: 0"))


@in_trio
async def test_fetch_outside_a_handler_is_an_error() -> None:
    later = trio.Event()

    async def run_on(nursery: trio.Nursery) -> None:
        async def fetch_later() -> None:
            await later.wait()
            with pytest.raises(RuntimeError, match="handler"):
                await fetch("http://my.kv/")

        async def leave_a_task(request: Any, env: Any, ctx: Any) -> Response:
            nursery.start_soon(fetch_later)
            return Response("ok")

        async with internet() as net, container(handled_by(leave_a_task), net) as client:
            await client.sends(GET)
            await client.gets(ok())
            later.set()
            await trio.testing.wait_all_tasks_blocked()
            assert net.dials == 0

    with pytest.raises(RuntimeError, match="handler"):
        await fetch("http://my.kv/")
    async with trio.open_nursery() as nursery:
        await run_on(nursery)


@pytest.mark.parametrize("how", ["returns", "raises", "is cancelled"])
@pytest.mark.usefixtures("expected_errors")
@in_trio
async def test_a_fetched_response_that_is_neither_returned_nor_read_is_closed(how: str) -> None:
    async def forget(request: Any, env: Any, ctx: Any) -> Response:
        await fetch("http://a.example/")
        if how == "raises":
            raise KeyError
        if how == "is cancelled":
            client.connection.leave(is_reset=True)
            await trio.sleep_forever()
        return Response("ok")

    async with internet() as net, container(handled_by(forget), net) as client:
        await client.sends(GET)
        origin = await net.dialled("a.example")
        await origin.gets(http("GET / HTTP/1.1", "host: a.example"))
        await origin.sends(http("HTTP/1.1 200 OK", "content-length: 5", body=b"h"))
        await origin.hears_the_end()


@in_trio
async def test_a_response_made_of_a_fetched_one_keeps_it_until_it_has_ended() -> None:
    async def shout(request: Any, env: Any, ctx: Any) -> Response:
        fetched = await fetch("http://a.example/")

        async def parts() -> AsyncIterator[bytes]:
            async for part in fetched.body:
                yield part.upper()

        return Response(parts())

    async with internet() as net, container(handled_by(shout), net) as client:
        await client.sends(GET)
        origin = await net.dialled("a.example")
        await origin.sends(http("HTTP/1.1 200 OK", "content-length: 4", body=b"on"))
        await client.gets(http("HTTP/1.1 200 OK", "transfer-encoding: chunked", body=b"2\r\nON\r\n"))
        await origin.sends(b"e!")
        await client.gets(b"2\r\nE!\r\n0\r\n\r\n")
        await client.sends(GET)
        await origin.gets(http("GET / HTTP/1.1", "host: a.example") * 2)
        await origin.sends(http("HTTP/1.1 200 OK", "content-length: 4"))
        await client.gets(http("HTTP/1.1 200 OK", "transfer-encoding: chunked"))
        client.connection.leave(is_reset=True)
        await origin.hears_the_end()


@in_trio
async def test_the_upstream_of_a_returned_response_is_closed_when_the_client_leaves() -> None:
    async def pass_on(request: Any, env: Any, ctx: Any) -> Response:
        return await fetch(request)

    async with internet() as net, container(handled_by(pass_on), net) as client:
        await client.sends(GET)
        origin = await net.dialled()
        await origin.gets(http("GET / HTTP/1.1", "Host: my.kv"))
        await origin.sends(http("HTTP/1.1 200 OK", "content-length: 5", body=b"h"))
        await client.gets(http("HTTP/1.1 200 OK", "content-length: 5", body=b"h"))
        client.connection.leave(is_reset=False)
        await origin.hears_the_end()
        await client.gets_nothing_more()
        assert client.connection.was_reset


@pytest.mark.parametrize("length", ["content-length: 5", "transfer-encoding: chunked"])
@in_trio
async def test_a_response_that_the_origin_cuts_off_ends_in_a_reset(
    length: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def pass_on(request: Any, env: Any, ctx: Any) -> Response:
        return await fetch(request)

    async with internet() as net, container(handled_by(pass_on), net) as client:
        await client.sends(GET)
        origin = await net.dialled()
        await origin.sends(http("HTTP/1.1 200 OK", length, body=b"1\r\nh\r\n" if "chunked" in length else b"h"))
        await client.gets(http("HTTP/1.1 200 OK", length, body=b"1\r\nh\r\n" if "chunked" in length else b"h"))
        await origin.closes()
        await client.gets_nothing_more()
        assert client.connection.was_reset
        assert "broke off" in caplog.text


@pytest.mark.parametrize(
    ("error", "status", "why"),
    [
        (FetchError("connect to x: timed out"), "502 Bad Gateway", "connect to x: timed out"),
        (DialRefused("10.0.0.1"), "520 ", GUARDED),
    ],
)
@in_trio
async def test_a_failed_fetch_is_answered_without_a_traceback(
    error: Exception, status: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The container reads the reason only for a request of its own that was passed on."""

    async def fail(*_: Any) -> trio.abc.Stream:
        raise error

    async def pass_on(request: Any, env: Any, ctx: Any) -> Response:
        return await fetch(request)

    dial, cls = Unguarded(fail), handled_by(pass_on)
    async with internet() as net, open_client(dial) as net.client, container(cls, net) as client:
        await client.sends(GET * 2)
        await client.gets(refusal(status, "my.kv: its handler could not reach what it asked") * 2)
    assert str(error) in caplog.text
    assert {record.levelno for record in caplog.get_records("call")} == {logging.WARNING}
    async with internet() as net, open_client(Unguarded(fail)) as net.client, container(passing(), net) as client:
        await client.sends(GET * 2)
        await client.gets(refusal(status, f"my.kv: {why}") * 2)


@pytest.mark.parametrize(
    ("error", "status", "why"),
    [
        (FetchError("connect to x: timed out"), "502 Bad Gateway", "could not reach what it asked"),
        (DialRefused("10.0.0.1"), "520 ", "could not reach what it asked"),
        (BindingError("KV: down", 503), "503 Service Unavailable", "could not get or keep what was asked"),
    ],
)
@in_trio
async def test_a_failure_in_a_nursery_of_a_handler_is_answered_as_one_without(
    error: Exception, status: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise error

    async def ask(request: Any, env: Any, ctx: Any) -> Response:
        async with trio.open_nursery() as outer, trio.open_nursery() as inner:
            outer.start_soon(trio.sleep_forever)
            inner.start_soon(fail)
        return Response()

    async with internet() as net, container(handled_by(ask), net) as client:
        await client.sends(GET * 2)
        await client.gets(refusal(status, f"my.kv: its handler {why}") * 2)
    assert {record.levelno for record in caplog.get_records("call")} == {logging.WARNING}


@pytest.mark.parametrize(("status", "line"), [(504, "504 Gateway Timeout"), (507, "507 Insufficient Storage")])
@in_trio
async def test_a_failed_resource_is_answered_without_its_name(
    status: int, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(request: Any, env: Any, ctx: Any) -> Response:
        raise BindingError("KV: put: redis at 10.0.0.1 did not answer", status)

    async with internet() as net, container(handled_by(fail), net) as client:
        await client.sends(GET * 2)
        await client.gets(refusal(line, "my.kv: its handler could not get or keep what was asked") * 2)
    assert "redis at 10.0.0.1" in caplog.text
    assert {record.levelno for record in caplog.get_records("call")} == {logging.WARNING}


@in_trio
async def test_a_handler_that_calls_exit_is_a_500_and_the_connection_stays_open(
    expected_errors: None, caplog: pytest.LogCaptureFixture
) -> None:
    def leave(request: Any, env: Any, ctx: Any) -> Response:
        raise SystemExit("bye")

    async with internet() as net, container(handled_by(leave), net) as client:
        await client.sends(GET * 2)
        failed = b"pyinterceptor: the handler failed\n"
        answer = http("HTTP/1.1 500 Internal Server Error", TEXT, f"content-length: {len(failed)}", body=failed)
        await client.gets(answer * 2)
    assert "SystemExit: bye" in caplog.text


@in_trio
async def test_a_container_at_its_limit_of_handlers_gets_503_with_retry_after() -> None:
    waiting, go = trio.Event(), trio.Event()

    async def slow(request: Any, env: Any, ctx: Any) -> Response:
        waiting.set()
        await go.wait()
        return Response()

    cls = handled_by(slow)
    cls.budget = Budget(handlers=1)
    async with internet() as net, running(cls, net) as run:

        def responding() -> Any:
            return Outbound(run, {}, handoff(SYNTHETIC)).respond

        async with (
            serving(responding(), destination=(SYNTHETIC, 80)) as first,
            serving(responding(), destination=(SYNTHETIC, 80)) as second,
        ):
            await first.sends(GET)
            await waiting.wait()
            await second.sends(GET)
            told = b"Too many handlers are running for this container.\n"
            busy = ["HTTP/1.1 503 Service Unavailable", "retry-after: 1", TEXT, f"content-length: {len(told)}"]
            await second.gets(http(*busy, body=told))
            go.set()
            await first.gets(http("HTTP/1.1 200 OK", "content-length: 0"))
            await second.sends(GET)
            await second.gets(http("HTTP/1.1 200 OK", "content-length: 0"))
            assert run.refused == 1


# --- passed on and refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["my.kv", "127.0.0.1", "other.example:9999", "203.0.113.1"])
@in_trio
async def test_a_request_to_an_address_goes_there_whatever_host_it_names(host: str) -> None:
    async with internet() as net, container(passing(), net, REAL, port=8080) as client:
        await client.sends(http("GET /a HTTP/1.1", f"Host: {host}", "X: y"))
        origin = await net.dialled(host.partition(":")[0], 8080, at=REAL)
        await origin.gets(http("GET /a HTTP/1.1", f"Host: {host}", "X: y"))
        await origin.sends(OK)
        await client.gets(http("HTTP/1.1 200 OK", "content-length: 2", body=b"ok"))


@pytest.mark.parametrize("destination", [SYNTHETIC, SYNTHETIC_V6])
@in_trio
async def test_a_request_to_a_synthetic_address_goes_by_its_name(destination: str) -> None:
    async with internet() as net, container(passing(), net, destination, port=8080) as client:
        await client.sends(http("GET /a HTTP/1.1", "Host: other.example"))
        origin = await net.dialled("other.example", 8080, at=None)
        await origin.gets(http("GET /a HTTP/1.1", "Host: other.example"))
        await origin.sends(OK)
        await client.gets(http("HTTP/1.1 200 OK", "content-length: 2", body=b"ok"))


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", "520 "),
        ("127.0.0.1:5432", "520 "),
        ("[::1]", "520 "),
        ("[::ffff:127.0.0.1]", "520 "),
        ("[64:ff9b::7f00:1]", "520 "),
        ("inside.example", "520 "),
        (SYNTHETIC, "520 "),
        ("203.0.113.1", "502 Bad Gateway"),  # it may be dialled; no server is there
    ],
)
@in_trio
async def test_a_host_that_is_local_is_refused_where_a_request_goes_by_its_name(host: str, status: str) -> None:
    dials: list[str] = []

    async def resolve(name: str) -> Any:
        return SimpleNamespace(v4=["10.0.0.1"], v6=["::1"])

    async def connect(ip: str, port: int) -> Any:
        dials.append(ip)
        raise OSError(errno.ECONNREFUSED, "Connection refused")

    def may_dial(ip: str, port: int, local: bool) -> bool:
        return not lib.guard_is_local(packed(ipaddress.ip_address(ip)))

    dial = Dialer(resolve=resolve, may_dial=may_dial, make_stream=trio.SocketStream, connect=connect)
    async with internet() as net, open_client(dial) as net.client, container(passing(), net, SYNTHETIC) as client:
        await client.sends(http("GET / HTTP/1.1", f"Host: {host}"))
        await client.gets(http(f"HTTP/1.1 {status}")[:-2])
    assert dials == (["203.0.113.1"] if status.startswith("502") else [])


@pytest.mark.parametrize("is_ruled", [True, False])
@in_trio
async def test_a_passed_on_request_does_not_bypass_the_rule_of_its_hosts_other_address(is_ruled: bool) -> None:
    """The dialled address refuses connections, and the host's next one has a handler of its own."""
    tried: list[str] = []

    async def resolve(host: str) -> Any:
        return SimpleNamespace(v4=["198.51.100.8"], v6=[])

    async def connect(ip: str, port: int) -> Any:
        tried.append(ip)
        raise OSError(errno.ECONNREFUSED, "Connection refused")

    async def answer(request: Any, env: Any, ctx: Any) -> Response:
        return Response()

    class Ruled(Container):
        outbound_by_host = {"198.51.100.8": answer} if is_ruled else {}

    dial = Dialer(resolve=resolve, may_dial=lambda *_: True, make_stream=trio.SocketStream, connect=connect)
    async with internet() as net, open_client(dial) as net.client, container(Ruled, net, SYNTHETIC) as client:
        await client.sends(http("GET / HTTP/1.1", "Host: two.example"))
        if is_ruled:
            await client.gets(refusal("520 ", "two.example: its addresses are under another rule"))
        else:
            why = "two.example: connect to 198.51.100.8:80: connection refused"
            await client.gets(refusal("502 Bad Gateway", why))
    assert tried == ([] if is_ruled else ["198.51.100.8"])


@in_trio
async def test_a_request_in_absolute_form_is_passed_on_in_it() -> None:
    async with internet() as net, container(passing(), net, REAL, port=3128) as client:
        head = http("GET http://my.kv/a HTTP/1.1", "Host: my.kv", "Proxy-Authorization: x")
        await client.sends(head)
        origin = await net.dialled("my.kv", 3128, at=REAL)
        await origin.gets(head)
        await origin.sends(OK)
        await client.gets(OK)


@in_trio
async def test_a_request_that_no_rule_allows_is_a_readable_520() -> None:
    cls = passing()
    cls.enable_internet = False
    async with internet() as net, container(cls, net) as client:
        await client.sends(GET * 2)
        await client.gets(refusal("520 ", "my.kv: no rule allows it") * 2)
        assert net.dials == 0


@pytest.mark.parametrize(
    ("cause", "answer"),
    [
        (Cause.DIAL_FAILED, refusal("502 Bad Gateway", "my.kv: the host could not be reached")),
        (Cause.DIAL_GUARD, refusal("520 ", f"my.kv: {GUARDED}")),
        (Cause.NAME_UNKNOWN, refusal("502 Bad Gateway", "my.kv: the name does not resolve")),
    ],
)
@in_trio
async def test_a_failure_of_the_relay_is_reported_once(cause: Cause, answer: bytes) -> None:
    async with internet() as net, container(passing(), net, cause=cause) as client:
        await client.sends(GET)
        await client.gets(answer)
        await client.sends(GET)
        origin = await net.dialled(at=REAL)
        await origin.sends(OK)
        await client.gets(OK)


SIGNED = ("Authorization: Bearer ours", "X-Scope: one")


@pytest.mark.parametrize(
    ("named", "asked"),
    [
        ("authorization", ("Host: my.kv", "X-Scope: one", "Authorization: Bearer ours")),
        ("Authorization, x-scope", ("Host: my.kv", *SIGNED)),
        ("close, X-SCOPE,authorization", ("Host: my.kv", *SIGNED)),
        ("host", ("host: my.kv", *SIGNED)),
    ],
)
@in_trio
async def test_a_container_cannot_strip_the_fields_that_a_handler_sets(named: str, asked: tuple[str, ...]) -> None:
    async def sign(request: Any, env: Any, ctx: Any) -> Response:
        request.headers["Authorization"] = "Bearer ours"
        signed = Request(request)
        signed.headers["X-Scope"] = "one"
        return await fetch(signed)

    async with internet() as net, container(handled_by(sign), net) as client:
        fields = ("Host: my.kv", f"Connection: {named}", "Authorization: theirs", "X-Scope: all")
        await client.sends(http("GET / HTTP/1.1", *fields))
        origin = await net.dialled()
        await origin.gets(http("GET / HTTP/1.1", *asked))
        await origin.sends(OK)
        end = ("connection: close",) if "close" in named else ()
        await client.gets(http("HTTP/1.1 200 OK", "content-length: 2", *end, body=b"ok"))


@in_trio
async def test_what_a_handler_puts_into_an_origins_response_reaches_the_container() -> None:
    async def add(request: Any, env: Any, ctx: Any) -> Response:
        response = await fetch(request)
        response.headers["X-Seen-By"] = "us"
        response.headers.append("Connection", "x-seen-by")
        return response

    async with internet() as net, container(handled_by(add), net) as client:
        await client.sends(GET)
        origin = await net.dialled()
        await origin.sends(http("HTTP/1.1 200 OK", "connection: x-seen-by", "x-seen-by: them", "content-length: 0"))
        await client.gets(http("HTTP/1.1 200 OK", "X-Seen-By: us", "content-length: 0"))


# --- other protocols ------------------------------------------------------------------------------------------------

UPGRADE = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x")


@pytest.mark.parametrize("is_handled", [False, True])
@in_trio
async def test_an_upgrade_that_the_origin_takes_is_a_tunnel(is_handled: bool) -> None:
    async def pass_on(request: Any, env: Any, ctx: Any) -> Response:
        return await fetch(request)

    cls = handled_by(pass_on) if is_handled else passing()
    async with internet() as net, container(cls, net) as client:
        await client.sends(http("GET /chat HTTP/1.1", "Host: my.kv", *UPGRADE) + b"early")
        origin = await net.dialled(at=None if is_handled else REAL)
        asked = ("Host: my.kv", "Sec-WebSocket-Key: x", "connection: upgrade", "upgrade: websocket")
        await origin.gets(http("GET /chat HTTP/1.1", *asked))
        await origin.sends(http("HTTP/1.1 101 Switching Protocols", *UPGRADE) + b"hello")
        told = ("Sec-WebSocket-Key: x", "connection: upgrade", "upgrade: websocket")
        await client.gets(http("HTTP/1.1 101 Switching Protocols", *told, body=b"hello"))
        await origin.gets(b"early")
        await client.sends(b"GET / HTTP/1.1\r\n\r\n")
        await origin.gets(b"GET / HTTP/1.1\r\n\r\n")
        await client.stream.send_eof()
        await origin.sends(b"bye")
        await client.gets(b"bye")
        await origin.closes()
        await client.gets_nothing_more()
        assert not client.connection.was_reset


@in_trio
async def test_an_upgrade_that_the_origin_declines_is_a_response_like_any_other() -> None:
    async with internet() as net, container(passing(), net) as client:
        await client.sends(http("GET / HTTP/1.1", "Host: my.kv", *UPGRADE) + GET)
        origin = await net.dialled(at=REAL)
        await origin.sends(http("HTTP/1.1 400 Bad Request", "content-length: 0"))
        await client.gets(http("HTTP/1.1 400 Bad Request", "content-length: 0"))
        await origin.sends(OK)
        await client.gets(OK)


@in_trio
async def test_an_upgrade_to_http_2_is_not_asked_for() -> None:
    async with internet() as net, container(passing(), net) as client:
        await client.sends(http("GET / HTTP/1.1", "Host: my.kv", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"))
        origin = await net.dialled(at=REAL)
        await origin.gets(http("GET / HTTP/1.1", "Host: my.kv"))
        await origin.sends(OK)
        await client.gets(OK)


@pytest.mark.parametrize("who", ["client", "origin"])
@in_trio
async def test_a_tunnel_that_breaks_on_one_side_is_reset_on_the_other(who: str) -> None:
    async with internet() as net, container(passing(), net) as client:
        await client.sends(http("GET / HTTP/1.1", "Host: my.kv", *UPGRADE))
        origin = await net.dialled(at=REAL)
        await origin.sends(http("HTTP/1.1 101 Switching Protocols", *UPGRADE))
        await client.gets(http("HTTP/1.1 101 Switching Protocols")[:-2])
        if who == "client":
            client.connection.leave(is_reset=True)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BrokenResourceError):
                await origin.stream.send_all(b"x")
        else:
            await origin.closes()
            await client.sends(b"x")
            await trio.testing.wait_all_tasks_blocked()
        assert client.connection.was_reset


@in_trio
async def test_an_upgrade_may_have_a_body_as_that_of_docker_exec() -> None:
    async def pass_on(request: Any, env: Any, ctx: Any) -> Response:
        return await fetch(request, headers=request.headers)

    docker = ("Connection: Upgrade", "Upgrade: tcp")
    body = b'{"Detach":false,"Tty":true}'
    async with internet() as net, container(handled_by(pass_on), net) as client:
        length = f"Content-Length: {len(body)}"
        await client.sends(http("POST /exec/1/start HTTP/1.1", "Host: my.kv", *docker, length) + body[:5])
        origin = await net.dialled()
        asked = ("Host: my.kv", length, "connection: upgrade", "upgrade: tcp")
        await origin.gets(http("POST /exec/1/start HTTP/1.1", *asked, body=body[:5]))
        await client.sends(body[5:] + b"ls\n")
        await origin.gets(body[5:])
        await origin.sends(http("HTTP/1.1 101 UPGRADED", *docker) + b"file")
        switched = ("connection: upgrade", "upgrade: tcp")
        await client.gets(http("HTTP/1.1 101 Switching Protocols", *switched, body=b"file"))
        await origin.gets(b"ls\n")
        await origin.sends(b"more")
        await client.gets(b"more")
        await origin.closes()
        await client.gets_nothing_more()


@pytest.mark.parametrize("options", ["authorization, x-scope", "Authorization,close,X-Scope"])
@pytest.mark.parametrize("is_copied", [False, True])
@in_trio
async def test_a_container_strips_no_field_that_a_handler_sets(options: str, is_copied: bool) -> None:
    async def sign(request: Any, env: Any, ctx: Any) -> Response:
        assert "authorization" not in request.headers
        if is_copied:
            fields = {**dict(request.headers.items()), "authorization": "secret", "x-scope": "mine"}
            return await fetch(request, headers=fields)
        request.headers["authorization"] = "secret"
        request.headers["x-scope"] = "mine"
        return await fetch(request)

    async with internet() as net, container(handled_by(sign), net) as client:
        head = ("Host: my.kv", f"Connection: {options}", "Authorization: own", "X-Other: 1")
        await client.sends(http("GET / HTTP/1.1", *head))
        origin = await net.dialled()
        kept = ("Host: my.kv", "X-Other: 1", "authorization: secret", "x-scope: mine")
        await origin.gets(http("GET / HTTP/1.1", *kept))
        fields = ("Connection: x-hop", "X-Hop: 1", "content-length: 2")
        await origin.sends(http("HTTP/1.1 200 OK", *fields, body=b"ok"))
        closing = ("connection: close",) if "close" in options else ()
        await client.gets(http("HTTP/1.1 200 OK", "content-length: 2", *closing, body=b"ok"))


@pytest.mark.parametrize("is_sent_at_once", [False, True])
@in_trio
async def test_fetched_trailers_and_statuses_pass(is_sent_at_once: bool) -> None:
    async def pass_on(request: Any, env: Any, ctx: Any) -> Response:
        return await fetch(request)

    head = http("HTTP/1.1 799 Odd", "transfer-encoding: chunked")
    body = b"2\r\nok\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\nConnection: x\r\n\r\n"
    async with internet() as net, container(handled_by(pass_on), net) as client:
        await client.sends(GET)
        origin = await net.dialled()
        await origin.sends(head + body if is_sent_at_once else head)
        await trio.testing.wait_all_tasks_blocked()
        if not is_sent_at_once:
            await origin.sends(body)
        await client.gets(http("HTTP/1.1 799 ", "transfer-encoding: chunked") + b"2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n")


@in_trio
async def test_the_log_says_in_one_line_why_a_fetch_failed(caplog: pytest.LogCaptureFixture) -> None:
    async def pass_on(request: Any, env: Any, ctx: Any) -> Response:
        return await fetch(request)

    async with internet() as net, container(handled_by(pass_on), net) as client:
        await client.sends(GET)
        origin = await net.dialled()
        await origin.sends(http("HTTP/1.1 200 OK", "content-length: 1, 2"))
        await client.gets(b"HTTP/1.1 502 ")
        await trio.testing.wait_all_tasks_blocked()
        [record] = caplog.records
        assert "the response's length is in doubt" in record.getMessage()
        assert record.exc_info is None
        await client.stream.receive_some()
