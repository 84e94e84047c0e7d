"""Bytes that could be read in two ways, beside a rule for one host: only that host's addresses refuse them."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

import pytest

from pyinterceptor.policy.addresses import Address, packed
from pyinterceptor.policy.layout import resolved
from pyinterceptor.policy.rules import Rules
from pyinterceptor.policy.table import compile
from pyinterceptor.relay.relay import Handoff, Options
from tests.socket.loopback import in_trio
from tests.socket.passage import CONTAINER, FAR, NAME, NEAR, OPEN, Passage, hears_a_reset, passage

ELSEWHERE = ipaddress.IPv4Address("127.0.0.3")
OPTIONS = Options(threads=1, sniff_wait=0.2, opening_deadline=60.0)
BESIDE = replace(OPEN, hosts={"ruled.test": 0})
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)
HEADS = {
    "long": b"GET / HTTP/1.1\r\nHost: a.test\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
    "many-fields": b"GET / HTTP/1.1\r\nHost: a.test\r\n" + b"X: x\r\n" * 200 + b"\r\n",
    "utf-8": b"GET /\xc3\xa4 HTTP/1.1\r\nHost: a.test\r\n\r\n",
    "blank-line": b"\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
    "empty-host": b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
    "coding": b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: x-own\r\n\r\nwords",
    "memcached": b"get /key\r\n",
    "connect": b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n",
    "old": b"GET / HTTP/1.0\r\n\r\n",
}


def publish(opened: Passage, rules: Rules, ruled: Iterable[Address]) -> None:
    """Publishes the rules, with these as the real addresses of the names that they name."""
    opened.relay.publish_policy(CONTAINER, resolved(compile(rules, 1), map(packed, ruled)))


def begun(opened: Passage) -> tuple[socket.socket, bytes]:
    """Returns the next connection at the origin on which bytes come, and the first of them.

    A refused client's may be before it: the server may speak first, so it is dialled before the client's bytes come.
    """
    while True:
        origin = opened.arrived()
        with suppress(ConnectionResetError):
            if first := origin.recv(1):
                return origin, first


def both_speak(opened: Passage, client: socket.socket, words: bytes) -> None:
    """Asserts that the words arrive, and that both ends can go on."""
    origin, first = begun(opened)
    assert first + origin.recv(len(words) - 1, socket.MSG_WAITALL) == words
    origin.sendall(b"whatever")
    assert client.recv(8, socket.MSG_WAITALL) == b"whatever"
    client.sendall(b"more")
    assert origin.recv(4, socket.MSG_WAITALL) == b"more"


@pytest.mark.parametrize("first", [*HEADS.values(), HTTP2], ids=[*HEADS, "http2"])
@in_trio
async def test_doubt_passes_to_a_host_that_no_rule_names(first: bytes) -> None:
    async with passage(OPEN, OPTIONS) as opened:
        publish(opened, BESIDE, [ELSEWHERE])
        client = opened.client()
        client.sendall(first)
        both_speak(opened, client, first)


@pytest.mark.parametrize("rules", [BESIDE, replace(OPEN, hosts={NAME: 0}), replace(OPEN, catch_all=0)])
@pytest.mark.parametrize("first", HEADS.values(), ids=HEADS)
@in_trio
async def test_http_in_doubt_is_pythons_to_refuse_at_a_ruled_address(first: bytes, rules: Rules) -> None:
    async with passage(OPEN, OPTIONS) as opened:
        publish(opened, rules, [NEAR])
        opened.client().sendall(first)
        events = opened.relay.events()
        [event] = await anext(events)
        assert isinstance(event, Handoff)
        socket.socket(fileno=event.fd).close()
        await events.aclose()
        publish(opened, BESIDE, [ELSEWHERE])
        client = opened.client()
        client.sendall(first)
        both_speak(opened, client, first)


@pytest.mark.parametrize("rules", [BESIDE, replace(OPEN, hosts={NAME: 0}), replace(OPEN, catch_all=0)])
@in_trio
async def test_cleartext_http2_is_reset_at_a_ruled_address(rules: Rules) -> None:
    async with passage(OPEN, OPTIONS) as opened:
        publish(opened, rules, [NEAR])
        client = opened.client()
        client.sendall(HTTP2)
        assert hears_a_reset(client)
        publish(opened, BESIDE, [ELSEWHERE])
        client = opened.client()
        client.sendall(HTTP2)
        both_speak(opened, client, HTTP2)


@in_trio
async def test_doubt_does_not_reach_a_ruled_host_as_another_address_of_a_free_name() -> None:
    async with passage(OPEN, OPTIONS) as opened:
        publish(opened, BESIDE, [FAR])
        client = opened.client()
        client.sendall(HTTP2)
        assert hears_a_reset(client)
        publish(opened, BESIDE, [ELSEWHERE])
        client = opened.client()
        client.sendall(HTTP2)
        both_speak(opened, client, HTTP2)


@in_trio
async def test_an_open_flow_in_doubt_ends_when_its_address_becomes_a_ruled_hosts() -> None:
    async with passage(OPEN, OPTIONS) as opened:
        publish(opened, BESIDE, [ELSEWHERE])
        client = opened.client()
        client.sendall(HEADS["connect"])
        both_speak(opened, client, HEADS["connect"])
        publish(opened, BESIDE, [ELSEWHERE, FAR])
        assert hears_a_reset(client)


@in_trio
async def test_a_second_request_in_doubt_passes_on_a_followed_connection() -> None:
    plain = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    async with passage(OPEN, OPTIONS) as opened:
        publish(opened, BESIDE, [ELSEWHERE])
        client = opened.client()
        client.sendall(plain)
        origin = opened.arrived()
        assert origin.recv(len(plain), socket.MSG_WAITALL) == plain
        origin.sendall(response)
        assert client.recv(len(response), socket.MSG_WAITALL) == response
        client.sendall(HEADS["utf-8"])
        assert origin.recv(len(HEADS["utf-8"]), socket.MSG_WAITALL) == HEADS["utf-8"]


@in_trio
async def test_each_request_in_absolute_form_is_decided_by_its_target() -> None:
    first = b"GET http://a.test:80/ HTTP/1.1\r\nHost: a.test\r\n\r\n"
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    async with passage(OPEN, OPTIONS) as opened:
        publish(opened, BESIDE, [ELSEWHERE])
        client = opened.client()
        client.sendall(first)
        origin = opened.arrived()
        assert origin.recv(len(first), socket.MSG_WAITALL) == first
        origin.sendall(response)
        assert client.recv(len(response), socket.MSG_WAITALL) == response
        client.sendall(b"GET http://ruled.test/ HTTP/1.1\r\nHost: ruled.test\r\n\r\n")
        events = opened.relay.events()
        [event] = await anext(events)
        assert isinstance(event, Handoff)
        assert event.host == "ruled.test"
        socket.socket(fileno=event.fd).close()
        await events.aclose()
