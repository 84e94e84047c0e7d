"""Descriptors and flows are counted, and given back when they are closed."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import trio
from pyinterceptor._relay import lib

from pyinterceptor import Container, Response, fetch
from pyinterceptor.errors import CaptureError
from pyinterceptor.policy.budget import Budget
from pyinterceptor.relay.relay import Options, open_relay
from tests.socket.interception import interception
from tests.socket.loopback import in_trio, nowhere, reset
from tests.socket.passage import BUDGET, CONTAINER, FAR, NAME, NEAR, NEAR_V6, Passage, passage
from tests.socket.test_runs import response_on

SYN_SENT = "02"  # /proc/net/tcp


@contextmanager
def unanswered(count: int, port: int) -> Iterator[list[ipaddress.IPv4Address]]:
    """Yields addresses that answer no connection attempt: their queues are full."""
    dead = [ipaddress.IPv4Address("127.0.9.0") + i for i in range(1, count + 1)]
    with ExitStack() as stack:
        for address in dead:
            made = stack.enter_context(socket.socket())
            made.bind((str(address), port))
            made.listen(0)
            stack.enter_context(socket.create_connection((str(address), port)))
        yield dead


def attempts(port: int) -> int:
    """Returns the number of sockets of this process that wait for an answer from the port."""
    inodes = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(f"/proc/self/fd/{name}"))
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in table]
    return sum(
        row[3] == SYN_SENT and row[2].endswith(f":{port:04X}") and f"socket:[{row[9]}]" in inodes for row in rows[1:]
    )


def is_refused(opened: Passage) -> bool:
    """Whether the container's next connection is reset."""
    try:
        return opened.client().recv(1) == b""
    except ConnectionResetError:
        return True


async def flows_are(opened: Passage, count: int) -> None:
    while opened.relay.count(CONTAINER).flows != count:
        await trio.lowlevel.checkpoint()


@in_trio
async def test_at_most_three_attempts_are_open_and_every_address_has_one() -> None:
    async with passage() as opened:
        port = opened.address[1]
        with unanswered(6, port) as dead:
            assert opened.relay.publish_name(CONTAINER, NAME, (NEAR, NEAR_V6), [*dead, FAR], 1000)
            opened.client().sendall(b"\0")
            opened.origin.setblocking(False)
            most = 0
            while True:
                most = max(most, attempts(port))
                with contextlib.suppress(BlockingIOError):
                    opened.origin.accept()[0].close()
                    break
                await trio.sleep(0.02)
            assert most == 3


@in_trio
async def test_2500_dials_of_dead_addresses_cost_no_more_descriptors_than_their_budget() -> None:
    """Each name has 16 addresses of which none answers."""
    dials, most = 2500, 0
    async with passage() as opened:
        port = opened.address[1]
        with unanswered(16, port) as dead:
            assert opened.relay.publish_name(CONTAINER, NAME, (NEAR, NEAR_V6), dead, 1000)
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(dials):
                opened.client().sendall(b"\0")
                await trio.lowlevel.checkpoint()
            until = trio.current_time() + 1.5  # every flow has begun its third attempt: RFC 8305, section 5
            while trio.current_time() < until:
                most = max(most, len(os.listdir("/proc/self/fd")) - before - dials)
                await trio.sleep(0.05)
    assert 2 * dials < most <= 2 * BUDGET.flows + lib.BUDGET_SPARE


@in_trio
async def test_attempts_beside_the_first_wait_for_a_descriptor() -> None:
    async with passage(budget=Budget(flows=9, descriptors=2)) as opened:
        port = opened.address[1]
        with unanswered(1, port) as dead:
            assert opened.relay.publish_name(CONTAINER, NAME, (NEAR, NEAR_V6), [*dead, FAR], 1000)
            client = opened.client()
            client.sendall(b"\0")
            opened.origin.settimeout(0)
            for _ in range(40):  # four times the delay until a second attempt
                assert attempts(port) <= 1
                with pytest.raises(BlockingIOError):
                    opened.origin.accept()
                await trio.sleep(0.025)


@in_trio
async def test_a_flow_above_the_budget_of_descriptors_is_refused_until_another_ends() -> None:
    async with passage(budget=Budget(flows=9, descriptors=4)) as opened:
        first, _ = opened.pair()
        opened.pair()
        assert is_refused(opened)
        assert opened.relay.count(CONTAINER).over_budget == 1
        for _ in range(5):  # each end gives back as much as was taken
            reset(first)
            await flows_are(opened, 1)
            first, _ = opened.pair()
        assert is_refused(opened)
        assert opened.relay.count(CONTAINER).over_budget == 2


@in_trio
async def test_all_containers_together_have_no_more_than_their_part_of_the_descriptors() -> None:
    async with passage(options=Options(threads=1, descriptors=6, reserve=1)) as opened:
        for _ in range(3):
            opened.pair()
        assert is_refused(opened)


@in_trio
async def test_a_container_for_which_no_reserve_is_left_is_refused_in_a_sentence() -> None:
    async with open_relay(Options(threads=1, flows=10, reserve=5)) as relay:
        for number in (1, 2):
            relay.add_container(number, nowhere(number), Budget())
        with pytest.raises(CaptureError, match="no reserve of 5 flows is left for it, of 10 flows"):
            relay.add_container(3, nowhere(3), Budget())
        relay.remove_container(1)
        relay.add_container(3, nowhere(3), Budget())


@in_trio
async def test_the_default_reserve_leaves_room_for_a_thousand_containers() -> None:
    async with open_relay(Options(threads=1, flows=7500, descriptors=15_000)) as relay:
        for number in range(1, 1001):
            relay.add_container(number, nowhere(number), Budget())


@in_trio
async def test_descriptors_of_handled_flows_and_fetches_are_counted_and_given_back() -> None:
    """With three places, a fetch finds one beside its client's, and a second client finds two only after both ended."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    held = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await held.wait()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

    async def forward(request: Any, env: Any, ctx: Any) -> Response:
        return await fetch(f"http://127.0.0.1:{port}/", local=True)

    class Tight(Container):
        enable_internet = False
        budget = Budget(descriptors=3)
        outbound = forward

    async with interception([Tight]) as opened, trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        await opened.started(Tight)
        (run,) = opened.interceptor.runs.values()
        waiting = opened.asks("default")
        while run.client._open == set():
            await trio.lowlevel.checkpoint()
        assert opened.is_refused("default")
        held.set()
        assert b"200 OK" in await response_on(waiting)
        waiting.close()
        for _ in range(10):
            while run.flows:
                await trio.lowlevel.checkpoint()
            client = opened.asks("default")
            assert b"200 OK" in await response_on(client)
            client.close()
        nursery.cancel_scope.cancel()


@in_trio
async def test_connections_above_the_share_of_ports_wait_in_their_order() -> None:
    async with passage(options=Options(threads=2), budget=Budget(ports=2)) as opened:
        pairs = [opened.pair() for _ in range(2)]
        waiting = []
        for number in b"abc":
            waiting.append(opened.client())
            waiting[-1].sendall(bytes([0, number]))
            while opened.relay.count(CONTAINER).flows != 2 + len(waiting):
                await trio.lowlevel.checkpoint()
            await trio.sleep(0.05)  # the flow's thread has judged it
        opened.origin.settimeout(0)
        for _ in range(10):
            with pytest.raises(BlockingIOError):
                opened.origin.accept()
            await trio.sleep(0.02)
        opened.origin.settimeout(20)
        for number in b"abc":
            client, origin = pairs.pop(0)
            reset(client)
            with pytest.raises(ConnectionResetError):
                origin.recv(1)
            client = waiting.pop(0)
            origin = await trio.to_thread.run_sync(opened.arrived)
            assert origin.recv(2) == bytes([0, number])
            pairs.append((client, origin))


@in_trio
async def test_a_connection_that_waits_for_a_port_ends_with_its_deadline_or_its_client() -> None:
    async with passage(options=Options(threads=1, dial_deadline=0.5), budget=Budget(ports=1)) as opened:
        opened.pair()
        for gone in (True, False):
            client = opened.client()
            client.sendall(b"\0")
            await flows_are(opened, 2)
            if gone:
                reset(client)
            await flows_are(opened, 1)
        assert opened.relay.count(CONTAINER).failed_dials == 1


@in_trio
async def test_ports_of_fetches_are_counted_and_given_back() -> None:
    """With one port, each fetch waits until the connection of the one before is closed."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    most = now = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await stream.receive_some()
        await trio.sleep(0.05)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        now -= 1

    async def forward(request: Any, env: Any, ctx: Any) -> Response:
        return await fetch(f"http://127.0.0.1:{port}/", local=True)

    class Tight(Container):
        enable_internet = False
        budget = Budget(ports=1)
        outbound = forward

    async with interception([Tight]) as opened, trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        await opened.started(Tight)
        clients = [opened.asks("default") for _ in range(4)]
        for client in clients:
            assert b"200 OK" in await response_on(client)
            client.close()
        assert most == 1
        nursery.cancel_scope.cancel()
