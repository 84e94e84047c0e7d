"""`self.ctx.container`: starting, intercepting and ending a container from its instance."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio

from pyinterceptor import Container, PolicyError, Response, RuntimeFailure, WorkerEntrypoint
from tests.socket.interception import Interception, interception
from tests.socket.test_run_time_rules import Connection
from tests.socket.test_runs import in_trio


class Gate(WorkerEntrypoint):
    async def fetch(self, request: Any) -> Response:
        return Response(f"{self.ctx.props} {self.env.WORD}")


class Unfinished(WorkerEntrypoint):
    """Has no fetch of its own."""


class Elsewhere:
    """A binding with fetch."""

    def fetch(self, request: Any) -> Response:
        return Response(f"elsewhere {request.host}")


class Greeter(WorkerEntrypoint):
    """Speaks first, then echoes in upper case."""

    async def connect(self, stream: Any) -> None:
        await stream.send_all(f"220 {self.ctx.props} {stream.destination[1]}\r\n".encode())
        while chunk := await stream.receive_some():
            await stream.send_all(bytes(chunk).upper())


class Low(Container):
    enable_internet = False

    async def begin(self, **options: Any) -> None:
        self.ctx.container.start(**options)
        worker = self.ctx.exports.Gate(props={"phase": 1})
        await self.ctx.container.intercept_all_outbound_http(worker)

    async def intercept(self, pattern: Any, phase: Any) -> None:
        worker = self.ctx.exports.Gate(props=phase)
        await self.ctx.container.intercept_outbound_http(pattern, worker)

    async def intercept_tcp(self, pattern: Any, props: Any) -> None:
        await self.ctx.container.intercept_outbound_tcp(pattern, self.ctx.exports.Greeter(props=props))

    async def remove(self, pattern: Any) -> None:
        await self.ctx.container.remove_intercept(pattern)

    async def patterns(self) -> list[Any]:
        return [pattern for pattern, _ in self.ctx.container.list_intercepts()]


@Low.outbound_by_host("static.kv")
async def static(request: Any, env: Any, ctx: Any) -> Response:
    return Response("static")


BINDINGS = {"WORD": "word", "ELSEWHERE": Elsewhere()}


def control(here: Interception) -> Any:
    return here.interceptor._containers["Low", "one"].instance.ctx.container


@in_trio
async def test_intercepts_decide_before_the_classs_rules_in_order_and_change_on_open_connections() -> None:
    async with interception([Low], bindings=BINDINGS, exports=[Gate]) as here:
        container = here.interceptor.get_container(Low, "one")
        await container.begin()
        await container.start()  # waits for the start that goes on
        connection, static_ = Connection(here), Connection(here, "static.kv")
        assert await connection.asks() == (200, "{'phase': 1} word")
        await container.intercept("*.kv", 2)
        await container.intercept("my.kv", 3)
        assert await container.patterns() == [None, "*.kv", "my.kv"]
        assert await connection.asks() == await static_.asks() == (200, "2 word")
        await container.intercept("*.KV", 4)  # in place
        assert await container.patterns() == [None, "*.kv", "my.kv"]
        assert await connection.asks() == (200, "4 word")
        await container.remove("*.kv")
        assert await connection.asks() == (200, "3 word")
        assert await static_.asks() == (200, "{'phase': 1} word")
        await container.remove(None)
        assert await static_.asks() == (200, "static")
        control(here).intercept_outbound_http("static.kv", here.interceptor.env.ELSEWHERE)  # not awaited
        assert await static_.asks() == (200, "elsewhere static.kv")


@in_trio
async def test_a_network_intercepts_the_addresses_that_were_dialled() -> None:
    async with interception([Low], bindings=BINDINGS, exports=[Gate]) as here:
        container = here.interceptor.get_container(Low, "one")
        await container.intercept("203.0.113.0/24", "far")
        await container.start()
        connection = Connection(here)
        assert (await connection.asks())[0] == 520
        await container.intercept("127.0.0.0/8", "near")
        assert await connection.asks() == (200, "near word")
        await container.remove("127.0.0.0/8")
        await container.intercept(f"127.0.0.0/8:{here.capture.address[1] + 1}", "another port")
        assert (await connection.asks())[0] == 520


@in_trio
async def test_intercepts_end_with_the_run_and_leave_the_rules_of_calls(
) -> None:
    async with interception([Low], bindings=BINDINGS, exports=[Gate]) as here:
        container = here.interceptor.get_container(Low, "one")
        await container.begin(enable_internet=True)
        await container.start()  # waits for the start that goes on
        assert await Connection(here).asks() == (200, "{'phase': 1} word")
        await container.stop()
        assert await container.patterns() == []
        await container.start()
        assert (await Connection(here).asks())[0] == 520  # the class's enable_internet


@in_trio
async def test_wrong_calls_are_errors_that_change_nothing() -> None:
    async with interception([Low], bindings=BINDINGS, exports=[Gate, Unfinished]) as here:
        container = here.interceptor.get_container(Low, "one")
        await container.intercept("my.kv", 1)
        at = control(here)
        gate = here.interceptor._containers["Low", "one"].instance.ctx.exports.Gate()
        for call, said in (
            (lambda: at.intercept_outbound_http("http://my.kv/", gate), "host pattern 'http://my.kv/'"),
            (lambda: at.intercept_outbound_http("10.0.0.0/33", gate), "'10.0.0.0/33': not a network"),
            (lambda: at.intercept_outbound_http(None, gate), "non-empty string, not None"),
            (lambda: at.intercept_outbound_http("x", object()), "is no worker"),
            (lambda: at.intercept_outbound_http("x", Gate), "Gate is a class; make an instance"),
            (lambda: at.intercept_all_outbound_http(7), "7 is no worker"),
            (lambda: at.intercept_outbound_tcp("x", gate), r"is no worker: it needs a method connect\(stream\)"),
            (lambda: at.remove_intercept("a/b"), "'a/b': not a network"),
        ):
            with pytest.raises(PolicyError, match=said):
                await call()
            assert await container.patterns() == ["my.kv"]
        with pytest.raises(PolicyError, match=r"Gate\(props=…\) can't be copied"):
            here.interceptor._containers["Low", "one"].instance.ctx.exports.Gate(props=object())
        with pytest.raises(AttributeError, match="unknown entrypoint 'Gaet'; the app exports: Gate, Unfinished"):
            _ = here.interceptor._containers["Low", "one"].instance.ctx.exports.Gaet
        with pytest.raises(RuntimeFailure, match="does not run"):
            await at.monitor()
        with pytest.raises(RuntimeFailure, match="no entrypoint runs"):
            at.signal(15)
        await container.start()
        with pytest.raises(RuntimeFailure, match="it runs already"):
            await at.start()
        assert await Connection(here).asks() == (200, "1 word")


@pytest.mark.usefixtures("expected_errors")
@in_trio
async def test_an_error_that_nobody_awaits_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with interception([Low], bindings=BINDINGS, exports=[Gate]) as here:
        here.interceptor.get_container(Low, "one")
        with caplog.at_level(logging.ERROR):
            control(here).intercept_outbound_http("a b", Elsewhere())
        assert "Low 'one': intercept_outbound_http('a b', …): host 'a b' is not a host name or address" in caplog.text


@pytest.mark.usefixtures("expected_errors")
@in_trio
async def test_a_start_that_fails_is_the_error_of_those_who_wait_for_it_and_leaves_the_class_as_it_was() -> None:
    is_failing = True

    async def starting(name: str) -> None:
        if is_failing:
            raise RuntimeFailure("start it: no")

    async with interception([Low], bindings=BINDINGS, exports=[Gate], starting=starting) as here:
        container = here.interceptor.get_container(Low, "one")
        effect = control(here).start(enable_internet=True)
        with pytest.raises(RuntimeFailure, match="it runs already"):
            await control(here).start()
        with pytest.raises(RuntimeFailure, match="start it: no"):
            await container.start()
        with pytest.raises(RuntimeFailure, match="start it: no"):
            await effect
        is_failing = False
        await container.start()
        assert (await Connection(here).asks())[0] == 520


@in_trio
async def test_monitor_returns_when_the_container_has_stopped() -> None:
    async with interception([Low], bindings=BINDINGS, exports=[Gate]) as here:
        container = here.interceptor.get_container(Low, "one")
        await container.start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(control(here).monitor)
            await container.stop()
        assert not control(here).running


async def spoken(here: Interception, words: bytes, end: bytes) -> bytes:
    """Opens a connection, sends the words, and returns the bytes that come as far as `end`; or until it is over."""
    made = here.containers["one"].connect(here.capture.address)
    made.setblocking(False)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(made))
    if words:
        await stream.send_all(words)
    got = b""
    while end not in got:
        try:
            chunk = await stream.receive_some()
        except trio.BrokenResourceError:
            return got
        if not chunk:
            return got
        got += chunk
    return got


@in_trio
async def test_a_tcp_intercept_takes_a_connection_before_its_client_has_spoken_and_any_protocol() -> None:
    async with interception([Low], bindings=BINDINGS, exports=[Gate, Greeter]) as here:
        container = here.interceptor.get_container(Low, "one")
        await container.start()
        port = here.capture.address[1]
        assert await spoken(here, b"ehlo\r\n", b"EHLO") == b""  # refused
        await container.intercept_tcp("127.0.0.0/8", "first")
        assert await spoken(here, b"", b"\n") == f"220 first {port}\r\n".encode()
        assert (await spoken(here, b"ehlo\r\n", b"EHLO")).endswith(b"EHLO\r\n")
        assert (await spoken(here, b"GET / HTTP/1.1\r\n\r\n", b"HTTP")).startswith(b"220 first")
        assert (await spoken(here, b"\x16\x03\x01\x00", b"\x00")).startswith(b"220 first")
        await container.intercept_tcp("127.0.0.0/8", "second")
        assert (await spoken(here, b"", b"\n")).startswith(b"220 second")
        await container.remove("127.0.0.0/8")
        assert await spoken(here, b"ehlo\r\n", b"EHLO") == b""


@in_trio
async def test_an_earlier_http_row_gets_the_requests_of_a_connection_that_a_later_tcp_row_names() -> None:
    async with interception([Low], bindings=BINDINGS, exports=[Gate, Greeter]) as here:
        container = here.interceptor.get_container(Low, "one")
        await container.start()
        await container.intercept("127.0.0.0/8", "http")
        await container.intercept_tcp("127.0.0.0/8", "tcp")
        assert await container.patterns() == ["127.0.0.0/8", "127.0.0.0/8"]
        assert await Connection(here).asks() == (200, "http word")
