"""Flows to a real address that a ruled host could have, before and after the ruled addresses are known.

A connection to 127.0.0.4 is a flow of a second container, for which that address isn't synthetic. The dial guard
refuses it, since it would be a flow again; so a name's other address is dialled.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
import trio
from pyinterceptor._relay import lib

from pyinterceptor.capture.capture import Attachment
from pyinterceptor.policy.addresses import packed
from pyinterceptor.policy.layout import resolved
from pyinterceptor.policy.table import compile
from pyinterceptor.relay.relay import Handoff, Options, Resolve
from tests.socket.loopback import in_trio
from tests.socket.passage import BUDGET, FAR, LO, NEAR_V6, OPEN, PATIENCE, Passage, hears_a_reset, listener, passage

REAL = ipaddress.IPv4Address("127.0.0.4")
NUMBER = 42
OPTIONS = Options(threads=1, sniff_wait=0.2, opening_deadline=60.0, dial_deadline=60.0)
TABLE = compile(replace(OPEN, hosts={"ruled.test": 0}, local_networks=(f"{FAR}/32",)), 1)
GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"


@dataclass
class Real:
    """`opened` has the relay and the origin at FAR."""

    opened: Passage

    def client(self) -> socket.socket:
        made = socket.create_connection((str(REAL), self.opened.address[1]), PATIENCE, ("127.0.0.1", 0))
        self.opened._sockets.enter_context(made)
        return made

    def publish(self, *ruled: ipaddress.IPv4Address) -> None:
        self.opened.relay.publish_policy(NUMBER, resolved(TABLE, map(packed, ruled)))

    async def asked(self) -> str:
        """Answers the next question for a name with FAR, and returns the name."""
        events = self.opened.relay.events()
        [event] = await anext(events)
        await events.aclose()
        assert isinstance(event, Resolve)
        assert self.opened.relay.publish_addresses(NUMBER, event.name, packed(FAR), 100)
        return event.name


@asynccontextmanager
async def real() -> AsyncIterator[Real]:
    async with passage(OPEN, OPTIONS) as opened:
        with listener(str(REAL), opened.address[1]) as at:
            relay = opened.relay
            near = ipaddress.IPv4Address("127.0.0.1")
            relay.add_container(relay.listen(at), Attachment(NUMBER, LO, near, NEAR_V6), BUDGET)
            relay.publish_policy(NUMBER, TABLE)
            yield Real(opened)


def hears(end: socket.socket, text: bytes) -> None:
    assert end.recv(len(text), socket.MSG_WAITALL) == text


@in_trio
async def test_a_flow_waits_until_the_ruled_addresses_are_known() -> None:
    async with real() as there:
        assert there.opened.relay.publish_addresses(NUMBER, "z.test", packed(FAR) + packed(REAL), 100)
        client = there.client()
        client.sendall(GET)
        with trio.move_on_after(0.5) as scope:
            await trio.lowlevel.wait_readable(lib.relay_event_fd(there.opened.relay._handle))
        assert scope.cancelled_caught
        there.publish(REAL)
        assert await there.asked() == "a.test"
        # The server may be dialled before the client's bytes come; such a connection ends without them.
        while (heard := there.opened.arrived().recv(len(GET), socket.MSG_WAITALL)) != GET:
            assert heard == b""


@in_trio
async def test_a_name_that_has_the_address_does_not_wait() -> None:
    async with real() as there:
        assert there.opened.relay.publish_addresses(NUMBER, "a.test", packed(FAR) + packed(REAL), 100)
        client = there.client()
        client.sendall(GET)
        hears(there.opened.arrived(), GET)


@pytest.mark.parametrize("ruled", [(REAL,), (FAR,)], ids=["as-dialled", "as-connected"])
@in_trio
async def test_an_open_flow_without_a_name_ends_when_its_address_becomes_a_ruled_hosts(
    ruled: tuple[ipaddress.IPv4Address, ...],
) -> None:
    async with real() as there:
        there.publish()
        assert there.opened.relay.publish_addresses(NUMBER, "a.test", packed(FAR) + packed(REAL), 100)
        client = there.client()
        client.sendall(b"\0")
        hears(there.opened.arrived(), b"\0")
        there.publish(ipaddress.IPv4Address("127.0.0.3"))
        client.sendall(b"more")
        hears(there.opened.arrivals[-1], b"more")
        there.publish(*ruled)
        if ruled == (FAR,):
            assert hears_a_reset(client)
        else:
            client.sendall(b"more")
            hears(there.opened.arrivals[-1], b"more")


@in_trio
async def test_a_later_request_goes_to_python_when_the_address_becomes_a_ruled_hosts() -> None:
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    async with real() as there:
        there.publish()
        assert there.opened.relay.publish_addresses(NUMBER, "a.test", packed(FAR) + packed(REAL), 100)
        client = there.client()
        client.sendall(GET)
        origin = there.opened.arrived()
        hears(origin, GET)
        there.publish(FAR)
        for _ in range(2):
            origin.sendall(response)
            hears(client, response)
            client.sendall(GET)
            hears(origin, GET)
        origin.sendall(response)
        hears(client, response)
        client.sendall(GET.replace(b"a.test", b"b.test"))
        events = there.opened.relay.events()
        [event] = await anext(events)
        assert isinstance(event, Handoff)
        socket.socket(fileno=event.fd).close()
        await events.aclose()
