"""What the relay's threads do beside moving bytes: nothing grows for ever, nothing costs the more the more there is."""

from __future__ import annotations

import gc
import resource
import socket
from dataclasses import replace
from pathlib import Path

import trio

from pyinterceptor.relay.relay import Options
from tests.socket.loopback import in_trio, reset
from tests.socket.passage import NAME, OPEN, Passage, hears_a_reset, passage

REQUEST = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def resident() -> int:
    """Bytes of our memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def come_and_go(opened: Passage, count: int) -> None:
    """So many flows are begun and ended."""
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
    """The thread is kept busy, so that the reset often comes between its hearing of the response and its looking."""
    async with passage() as opened:
        with opened.crowded(6):
            for number in range(200):
                client = opened.client()
                client.sendall(REQUEST)
                origin = opened.arrived()
                assert origin.recv(len(REQUEST), socket.MSG_WAITALL) == REQUEST
                origin.sendall(RESPONSE)
                await trio.sleep(number % 20 / 10_000)
                reset(origin)
                assert client.recv(len(RESPONSE), socket.MSG_WAITALL) == RESPONSE
                assert hears_a_reset(client)


@in_trio
async def test_a_silent_client_reaches_what_the_policy_of_the_moment_lets_it() -> None:
    """The name has a rule, so that a client has a while to say that it speaks HTTP."""
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
