"""A published policy decides the open flows."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from pyinterceptor.policy.rules import Rules
from pyinterceptor.relay.relay import Handoff, Options, Resolve
from tests.socket.loopback import in_trio
from tests.socket.passage import CONTAINER, FAR, NAME, NEAR, NEAR_V6, OPEN, PATIENCE, Passage, hears_a_reset, passage

ALERT = b"\x15"  # the first byte
REQUEST = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SILENT = "silent.test"  # a name that isn't resolved yet
CLOSED = replace(OPEN, internet=False)
HANDLED = replace(OPEN, catch_all=0)  # every host has a handler
PARTLY = replace(OPEN, hosts={"other.test": 0})  # requests can be decided differently


def passes(client: socket.socket, origin: socket.socket, data: bytes = b"\0word") -> None:
    for one, other in ((client, origin), (origin, client)):
        one.sendall(data)
        assert other.recv(len(data), socket.MSG_WAITALL) == data


def asked(opened: Passage) -> tuple[socket.socket, socket.socket]:
    """Returns both ends of a flow whose request has reached the origin."""
    client = opened.client()
    client.sendall(REQUEST)
    origin = opened.arrived()
    assert origin.recv(len(REQUEST), socket.MSG_WAITALL) == REQUEST
    return client, origin


async def handoff(opened: Passage) -> Handoff:
    events = opened.relay.events()
    [event] = await anext(events)
    await events.aclose()
    assert isinstance(event, Handoff)
    os.close(event.fd)
    opened.relay.returned(event, 0, 0)
    return event


@in_trio
async def test_an_opaque_flow_that_a_new_policy_refuses_is_reset() -> None:
    async with passage() as opened:
        pairs = [opened.pair() for _ in range(3)]
        opened.publish(CLOSED)
        for client, origin in pairs:
            assert hears_a_reset(client)
            assert hears_a_reset(origin)
        assert opened.relay.count(CONTAINER).refused == 3
        opened.publish(OPEN)
        passes(*opened.pair())


@in_trio
async def test_an_opaque_flow_that_a_new_policy_would_give_to_a_handler_goes_on() -> None:
    async with passage() as opened:
        client, origin = opened.pair()
        opened.publish(HANDLED)
        passes(client, origin)
        assert refused_by(opened).recv(1) == ALERT  # a flow that begins now is refused
        passes(client, origin)


def refused_by(opened: Passage) -> socket.socket:
    """Returns the client of a new flow with TLS."""
    client = opened.client()
    client.sendall(b"\x16\x03\x01\x00\x00no hello")
    return client


@in_trio
async def test_a_client_that_waits_for_its_server_is_reset_by_a_policy_that_refuses_it() -> None:
    async with passage() as opened:
        client, origin = opened.client(), opened.arrived()
        origin.sendall(b"220 welcome")
        assert client.recv(100) == b"220 welcome"
        opened.publish(CLOSED)
        assert hears_a_reset(client)
        assert hears_a_reset(origin)


@in_trio
async def test_a_flow_that_waits_for_its_name_is_judged_again_before_it_is_dialled() -> None:
    async with passage() as opened:
        assert opened.relay.publish_name(CONTAINER, SILENT, (NEAR, NEAR_V6), [], 0)
        opaque, plain = opened.client(), opened.client()
        opaque.sendall(b"\0")
        plain.sendall(REQUEST)
        events = opened.relay.events()
        assert await anext(events) == [Resolve(CONTAINER, SILENT)]
        await events.aclose()
        while opened.relay.count().accepted < 2:
            await trio.lowlevel.checkpoint()
        opened.publish(CLOSED)
        assert hears_a_reset(opaque)
        assert (await handoff(opened)).host == "a.test"  # Python answers it
        assert opened.relay.publish_name(CONTAINER, SILENT, (NEAR, NEAR_V6), [FAR], 1000)
        assert opened.relay.count().spliced == 0


DEAF = ipaddress.IPv4Address("127.0.0.3")  # a listener there answers no SYN
SYN_SENT = "02"


@contextmanager
def deaf(port: int) -> Iterator[None]:
    """Listens with a full queue of connections, so that the kernel answers no further one."""
    with socket.create_server((str(DEAF), port), backlog=0), ExitStack() as stack:
        for _ in range(3):
            made = stack.enter_context(socket.socket())
            made.setblocking(False)
            made.bind(("127.0.0.4", 0))
            made.connect_ex((str(DEAF), port))
        yield


def is_dialled(port: int) -> bool:
    """Whether a connection to the deaf listener, other than those that fill it, waits for its answer."""
    local, remote = "0400007F:", f"0300007F:{port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[2:4] == [remote, SYN_SENT] and not row[1].startswith(local) for row in rows)


@pytest.mark.parametrize("is_early", [True, False])
@in_trio
async def test_a_flow_that_is_being_dialled_is_judged_again_and_its_dial_ends(is_early: bool) -> None:
    options = Options(threads=1, sniff_wait=0.01, dial_deadline=1000, opening_deadline=1000)
    async with passage(options=options) as opened:
        port = opened.address[1]
        assert opened.relay.publish_name(CONTAINER, NAME, (NEAR, NEAR_V6), [DEAF], 1000)
        with deaf(port):
            client = opened.client()
            if not is_early:
                client.sendall(b"\0")
            while not is_dialled(port):
                await trio.lowlevel.checkpoint()
            opened.publish(CLOSED)
            while is_dialled(port):
                await trio.lowlevel.checkpoint()
            if is_early:
                client.sendall(b"\0")
            assert hears_a_reset(client)
        assert opened.relay.count(CONTAINER).refused == 1
        opened.publish(OPEN)
        opened.publish_address()
        passes(*opened.pair())


@in_trio
async def test_a_dial_goes_on_under_a_policy_that_decides_it_alike() -> None:
    async with passage() as opened:
        assert opened.relay.publish_name(CONTAINER, SILENT, (NEAR, NEAR_V6), [], 0)
        client = opened.client()
        client.sendall(REQUEST)
        events = opened.relay.events()
        assert await anext(events) == [Resolve(CONTAINER, SILENT)]
        await events.aclose()
        for _ in range(20):
            opened.publish(PARTLY)
            opened.publish(OPEN)
        assert opened.relay.publish_name(CONTAINER, SILENT, (NEAR, NEAR_V6), [FAR], 1000)
        assert opened.arrived().recv(len(REQUEST), socket.MSG_WAITALL) == REQUEST
        assert opened.relay.count().spliced == 1


@in_trio
async def test_policies_that_are_published_again_and_again_do_not_postpone_the_dial_deadline() -> None:
    async with passage(options=Options(threads=1, dial_deadline=0.5)) as opened:
        assert opened.relay.publish_name(CONTAINER, SILENT, (NEAR, NEAR_V6), [], 0)
        client = opened.client()
        client.sendall(b"\0")
        with trio.fail_after(PATIENCE):
            while not opened.relay.count().failed_dials:
                opened.publish(OPEN)
                await trio.sleep(0.02)
        assert hears_a_reset(client)


@in_trio
async def test_an_exchange_in_progress_finishes_and_the_next_request_is_decided_anew() -> None:
    async with passage() as opened:
        client, origin = asked(opened)
        opened.publish(CLOSED)
        origin.sendall(RESPONSE)
        assert client.recv(len(RESPONSE), socket.MSG_WAITALL) == RESPONSE
        client.sendall(REQUEST)
        assert (await handoff(opened)).host == "a.test"


@in_trio
async def test_http_that_cannot_be_framed_passes_until_a_policy_could_tell_requests_apart() -> None:
    unframed = b"ICY 200 OK\r\n\r\nmusic"
    for policy in (PARTLY, HANDLED, CLOSED):
        async with passage() as opened:
            client, origin = asked(opened)
            origin.sendall(unframed)
            assert client.recv(len(unframed), socket.MSG_WAITALL) == unframed
            passes(client, origin, REQUEST)
            opened.publish(replace(OPEN, local_networks=("127.0.0.0/8", "10.0.0.0/8")))
            passes(client, origin, REQUEST)
            opened.publish(policy)
            assert hears_a_reset(client)
            assert hears_a_reset(origin)
            assert opened.relay.count().refused == 1


@in_trio
async def test_http_1_0_passes_until_a_policy_could_tell_requests_apart() -> None:
    old = b"GET / HTTP/1.0\r\nHost: a.test\r\n\r\n"
    async with passage() as opened:
        client = opened.client()
        client.sendall(old)
        origin = opened.arrived()
        assert origin.recv(len(old), socket.MSG_WAITALL) == old
        opened.publish(PARTLY)
        assert hears_a_reset(client)


@in_trio
async def test_a_rule_for_an_address_holds_for_a_name_with_that_address() -> None:
    """The name and the dialled address have no rule; the name's real address has one."""
    async with passage(replace(OPEN, hosts={str(FAR): 0})) as opened:
        opened.client().sendall(REQUEST)
        assert (await handoff(opened)).host == "a.test"
    async with passage(replace(OPEN, hosts={"127.0.0.3": 0})) as opened:
        asked(opened)


@in_trio
async def test_a_silent_client_that_was_connected_is_served_by_the_rule_of_its_server_s_address() -> None:
    async with passage(options=Options(threads=1)) as opened:
        client, origin = opened.client(), opened.arrived()
        while not opened.relay.count().spliced:  # the origin sees the connection before the relay does
            await trio.lowlevel.checkpoint()
        opened.publish(Rules({str(FAR): 0}, None, internet=True, local_networks=OPEN.local_networks))
        client.sendall(REQUEST)
        assert (await handoff(opened)).rule == 0
        assert origin.recv(1) == b""
