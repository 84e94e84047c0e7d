"""The record of a flow that Python serves has the times of the steps that C made."""

from __future__ import annotations

import socket
import time
from typing import Any

import trio

from pyinterceptor import Container, FlowRecord, Response
from tests.socket.interception import interception
from tests.socket.loopback import in_trio
from tests.socket.passage import NAME

SLOW = 0.3  # seconds within the client's first line
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Sandbox(Container):
    """Reaches the test's server."""

    local_networks = ("127.0.0.0/8",)


class Closed(Container):
    """Reaches its handler alone."""

    enable_internet = False


@Sandbox.outbound_by_host("my.kv")
@Closed.outbound_by_host("my.kv")
async def hello(request: Any, env: Any, ctx: Any) -> Response:
    return Response("hello")


def ask(client: socket.socket, host: str) -> None:
    client.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())


def answer(client: socket.socket) -> bytes:
    client.settimeout(30)
    return client.recv(4096)


@in_trio
async def test_a_flow_that_is_handed_off_has_the_times_of_its_accept_and_its_judgement() -> None:
    async with interception([Closed]) as here, here.interceptor.records(FlowRecord) as flows:
        await here.interceptor.get_container(Closed).start()
        before = time.time()
        client = here.containers["default"].connect(here.capture.address)
        client.sendall(b"GET")
        await trio.sleep(SLOW)
        client.sendall(b" / HTTP/1.1\r\nHost: my.kv\r\n\r\n")
        assert b"200 OK" in await trio.to_thread.run_sync(answer, client)
        client.close()
        flow = await anext(flows)
        assert before - 0.1 <= flow.began <= time.time() - SLOW
        assert flow.judged is not None
        assert SLOW <= flow.judged <= flow.ended
        assert flow.connected is None


@in_trio
async def test_a_followed_flow_that_is_handed_off_keeps_the_time_of_its_connection() -> None:
    async with interception([Sandbox]) as here, here.interceptor.records(FlowRecord) as flows:
        await here.interceptor.get_container(Sandbox).start()
        [number] = here.interceptor.runs
        with here.origin(number) as listening:
            client = here.containers["default"].connect(here.capture.address)
            ask(client, NAME)
            origin, _ = await trio.to_thread.run_sync(listening.accept)
            with origin:
                origin.settimeout(30)
                origin.recv(4096)
                origin.sendall(OK)
                assert await trio.to_thread.run_sync(answer, client) == OK
                ask(client, "my.kv")
                assert b"hello" in await trio.to_thread.run_sync(answer, client)
                client.close()
                flow = await anext(flows)
        assert flow.judged is not None
        assert flow.connected is not None
        assert min(flow.judged, flow.connected) > 0  # a server may be dialled before the client has spoken
        assert max(flow.judged, flow.connected) <= flow.ended
