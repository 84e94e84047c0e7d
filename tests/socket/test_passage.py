"""The costs of the relay's threads besides moving bytes: memory is bounded, and no cost grows with open flows."""

from __future__ import annotations

import gc
import ipaddress
import resource
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import trio

from pyinterceptor.policy.budget import Budget
from pyinterceptor.relay.relay import Options, Resolve
from tests.socket.loopback import in_trio, reset, whole
from tests.socket.passage import CONTAINER, NAME, NEAR, NEAR_V6, OPEN, Passage, hears_a_reset, passage

REQUEST = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def resident() -> int:
    """Returns the resident bytes of this process."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def come_and_go(opened: Passage, count: int) -> None:
    """Begins and ends `count` flows."""
    for _ in range(count):
        with socket.create_connection(opened.address) as client:
            reset(client)


@in_trio
async def test_ended_flows_are_freed_though_others_move_bytes_without_a_pause() -> None:
    async with passage() as opened:
        with opened.crowded(6):
            come_and_go(opened, 2_000)
            before = resident()
            come_and_go(opened, 20_000)
            assert resident() - before < 2_000_000  # a flow has about 400 bytes


@in_trio
async def test_a_reset_stays_one_though_a_head_was_looked_for_at_its_moment() -> None:
    """The thread is busy, so that the reset often comes between the event of the response and the read."""
    async with passage() as opened:
        with opened.crowded(6):
            for number in range(200):
                client = opened.client()
                client.sendall(REQUEST)
                origin = opened.arrived()
                assert whole(origin, len(REQUEST)) == REQUEST
                origin.sendall(RESPONSE)
                await trio.sleep(number % 20 / 10_000)
                reset(origin)
                assert whole(client, len(RESPONSE)) == RESPONSE
                assert hears_a_reset(client)


@in_trio
async def test_a_silent_client_is_decided_by_the_policy_in_force() -> None:
    """The name has a rule, so that the relay waits for the client's first bytes for a while."""
    options = Options(threads=1, sniff_wait=0.5, opening_deadline=2.0)
    for internet in (False, True):
        async with passage(replace(OPEN, hosts={NAME: 0}, internet=not internet), options) as opened:
            client = opened.client()
            while opened.relay.count().accepted == 0:
                await trio.lowlevel.checkpoint()
            opened.publish(replace(OPEN, hosts={NAME: 0}, internet=internet))
            if internet:
                opened.arrived().sendall(b"220 welcome")
                assert client.recv(100) == b"220 welcome"
            else:
                assert hears_a_reset(client)
                assert opened.relay.count().spliced == 0


def threads_seconds() -> float:
    """Returns the processor time of all threads but this one."""
    return time.process_time() - time.thread_time()


@in_trio
async def test_a_resolved_name_does_not_cost_flows_that_do_not_wait_for_it() -> None:
    """Flows wait for one name while another one fails again and again."""
    options = Options(threads=1, sniff_wait=60.0, opening_deadline=60.0)
    rules = replace(OPEN, hosts={"silent.test": 0})
    spent = []
    for crowd in (0, 3_000):
        async with passage(rules, options, Budget(openings=5_000)) as opened:
            pair = (NEAR, NEAR_V6)
            opened.relay.publish_name(CONTAINER, "silent.test", pair, [], 0)
            silent = [opened.client() for _ in range(crowd)]
            while opened.relay.count().accepted < crowd:
                await trio.lowlevel.checkpoint()
            waiting = opened.client()
            waiting.sendall(b"\0")
            events = opened.relay.events()
            assert await anext(events) == [Resolve(CONTAINER, "silent.test")]
            other = (ipaddress.IPv4Address("127.0.0.3"), ipaddress.IPv6Address("::3"))
            opened.relay.publish_name(CONTAINER, "other.test", other, [], 0)
            before = threads_seconds()
            for _ in range(2_000):
                opened.relay.name_failed(CONTAINER, "other.test")
                await trio.sleep(0.0001)
            spent.append(threads_seconds() - before)
            await events.aclose()
            assert len(silent) == crowd
    assert spent[1] < 4 * spent[0] + 0.05, spent  # visiting 3 000 flows for each failure takes 0.5 s


@in_trio
async def test_without_any_descriptor_connections_wait_at_no_cost() -> None:
    """Not even the spare descriptor can be opened again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with passage() as opened:
        with socket.socket() as client:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                client.connect(opened.address)
                before = threads_seconds()
                await trio.sleep(1)
                spent = threads_seconds() - before
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert spent < 0.3
            client.sendall(b"\0")
            assert opened.arrived().recv(1) == b"\0"


@in_trio
async def test_a_flow_that_ends_with_its_container_is_counted() -> None:
    async with passage() as opened:
        client, origin = opened.pair()
        opened.relay.remove_container(CONTAINER)
        assert hears_a_reset(client)
        assert hears_a_reset(origin)
        assert opened.relay.count().reset == 1


LONG_REQUEST = REQUEST[:-2] + b"X: " + b"a" * 6_000 + b"\r\n\r\n"
LONG_RESPONSE = RESPONSE[:-4] + b"X: " + b"a" * 6_000 + b"\r\n\r\nok"


def say(end: socket.socket, data: bytes, piece: int) -> None:
    """Sends the data so slowly that each piece wakes the relay's thread."""
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for at in range(0, len(data), piece):
        end.sendall(data[at : at + piece])
        time.sleep(0.00005)


def seconds_of(sender: socket.socket, data: bytes, piece: int, hearer: Callable[[], socket.socket]) -> float:
    """Returns the processor time that the relay's thread spends on data in pieces."""
    before = threads_seconds()
    say(sender, data, piece)
    assert whole(hearer(), len(data)) == data
    return threads_seconds() - before


@in_trio
async def test_a_head_that_comes_in_single_bytes_does_not_cost_a_look_for_each() -> None:
    """Measures a flow's first head, a response's head, and the head of a later request."""
    spent = []
    for piece in (20_000, 1):
        async with passage(replace(OPEN, hosts={"other.test": 0})) as opened:
            client = opened.client()
            times = [seconds_of(client, LONG_REQUEST, piece, opened.arrived)]
            [origin] = opened.arrivals
            times.append(seconds_of(origin, LONG_RESPONSE, piece, lambda end=client: end))
            times.append(seconds_of(client, LONG_REQUEST, piece, lambda end=origin: end))
            spent.append(times)
    for together, single in zip(*spent, strict=True):
        assert single < 0.014 + 10 * together, spent  # 6 000 reads take at least 20 ms


@in_trio
async def test_a_slow_head_is_found_though_its_last_bytes_are_few() -> None:
    """After a few reads a few bytes no longer wake the thread: a timer finds the head."""
    async with passage() as opened:
        client = opened.client()
        say(client, REQUEST, 1)
        origin = opened.arrived()
        assert whole(origin, len(REQUEST)) == REQUEST
        for _ in range(3):
            say(origin, RESPONSE, 1)
            assert whole(client, len(RESPONSE)) == RESPONSE
            say(client, REQUEST, 1)
            assert whole(origin, len(REQUEST)) == REQUEST


def followed(opened: Passage) -> tuple[socket.socket, socket.socket]:
    """A flow that one request and its response have passed."""
    client = opened.client()
    client.sendall(REQUEST)
    origin = opened.arrived()
    assert whole(origin, len(REQUEST)) == REQUEST
    origin.sendall(RESPONSE)
    assert whole(client, len(RESPONSE)) == RESPONSE
    return client, origin


@in_trio
async def test_idle_flows_cost_no_processor_time() -> None:
    async with passage() as opened:
        pairs = [opened.pair() for _ in range(2_000)]
        await trio.sleep(0.6)  # until the deadlines of their openings are over
        before = threads_seconds()
        await trio.sleep(1)
        assert threads_seconds() - before < 0.002
        assert len(pairs) == 2_000


@in_trio
async def test_heads_that_come_no_further_cost_no_processor_time() -> None:
    """A later request's, and a response's; each is found once its rest comes."""
    async with passage() as opened:
        pairs = [followed(opened) for _ in range(400)]
        requests, responses = pairs[::2], [(origin, client) for client, origin in pairs[1::2]]
        for origin, client in responses:
            client.sendall(REQUEST)
            assert whole(origin, len(REQUEST)) == REQUEST
        heads = [(*ends, REQUEST) for ends in requests] + [(*ends, RESPONSE[:-2]) for ends in responses]
        for sender, _, head in heads:
            say(sender, head[:10], 1)
        await trio.sleep(0.3)  # the looks at what has come are over
        before = threads_seconds()
        await trio.sleep(1)
        assert threads_seconds() - before < 0.002
        for sender, hearer, head in heads:
            say(sender, head[10:], 1)
            assert hearer.recv(len(head)) == head


@in_trio
async def test_a_half_close_after_a_long_silence_leaves_the_other_side_its_time() -> None:
    async with passage(options=Options(threads=1, linger_deadline=0.5)) as opened:
        client, origin = opened.pair()
        await trio.sleep(0.7)
        client.shutdown(socket.SHUT_WR)
        assert origin.recv(1) == b""
        await trio.sleep(0.2)
        origin.sendall(b"bye")
        assert client.recv(3) == b"bye"
        began = trio.current_time()
        assert hears_a_reset(client)
        assert trio.current_time() - began < 5
