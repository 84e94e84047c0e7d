"""Bytes that could be read in two ways, beside a rule for one host: only that host's addresses refuse them."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import pytest

from pyinterceptor.policy.addresses import Address, packed
from pyinterceptor.policy.layout import resolved
from pyinterceptor.policy.rules import Rules
from pyinterceptor.policy.table import compile
from pyinterceptor.relay.relay import Handoff, Options
from tests.socket.loopback import in_trio, whole
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
    assert first + whole(origin, len(words) - 1) == words
    origin.sendall(b"whatever")
    assert whole(client, 8) == b"whatever"
    client.sendall(b"more")
    assert whole(origin, 4) == b"more"


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
        assert whole(origin, len(plain)) == plain
        origin.sendall(response)
        assert whole(client, len(response)) == response
        client.sendall(HEADS["utf-8"])
        assert whole(origin, len(HEADS["utf-8"])) == HEADS["utf-8"]


@in_trio
async def test_each_request_in_absolute_form_is_decided_by_its_target() -> None:
    first = b"GET http://a.test:80/ HTTP/1.1\r\nHost: a.test\r\n\r\n"
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    async with passage(OPEN, OPTIONS) as opened:
        publish(opened, BESIDE, [ELSEWHERE])
        client = opened.client()
        client.sendall(first)
        origin = opened.arrived()
        assert whole(origin, len(first)) == first
        origin.sendall(response)
        assert whole(client, len(response)) == response
        client.sendall(b"GET http://ruled.test/ HTTP/1.1\r\nHost: ruled.test\r\n\r\n")
        events = opened.relay.events()
        [event] = await anext(events)
        assert isinstance(event, Handoff)
        assert event.host == "ruled.test"
        socket.socket(fileno=event.fd).close()
        await events.aclose()


# First bytes after which a connection isn't framed any more.
UNFRAMED = {
    "utf-8": HEADS["utf-8"],
    "long": HEADS["long"],
    "old": b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "memcached": HEADS["memcached"],
    "tunnel": HEADS["connect"],
    "long-method": b"A" * 33 + b" / HTTP/1.1\r\nHost: a.test\r\n\r\n",
    "half-a-method": b"GE",
}
ASKED = {
    "absolute": (b"GET http://%s/ HTTP/1.1\r\nHost: %s\r\n\r\n", b"ruled.test", b"a.test"),
    "tunnel": (b"CONNECT %s:443 HTTP/1.1\r\nHost: %s:443\r\n\r\n", b"ruled.test", b"a.test"),
    "long-method": (b"M" * 40 + b" http://%s/ HTTP/1.1\r\nHost: %s\r\n\r\n", b"ruled.test", b"a.test"),
    "address": (b"CONNECT %s:443 HTTP/1.1\r\nHost: %s:443\r\n\r\n", b"127.0.0.3", b"127.0.0.2"),
    "no-host": (b"GET http://%s/ HTTP/1.1\r\nHost: %s\r\n\r\n", b"ru%6ced.test", b"a.test"),
}


@pytest.mark.parametrize(("words", "ruled", "free"), ASKED.values(), ids=ASKED)
@pytest.mark.parametrize("first", UNFRAMED.values(), ids=UNFRAMED)
@in_trio
async def test_a_proxy_is_not_asked_for_a_ruled_host_after_bytes_that_no_one_can_frame(
    first: bytes, words: bytes, ruled: bytes, free: bytes
) -> None:
    is_half = first == UNFRAMED["half-a-method"]
    if is_half and not words.startswith(b"GET"):
        first = words[:2]
    async with passage(OPEN, OPTIONS) as opened:
        publish(opened, BESIDE, [ELSEWHERE])
        for host in (free, ruled):
            client = opened.client()
            client.sendall(first)
            origin, heard = begun(opened)
            assert heard + whole(origin, len(first) - 1) == first
            again = words % (host, host)
            again = again[2:] if is_half else again
            client.sendall(again)
            if host == free:
                assert whole(origin, len(again)) == again
                origin.sendall(b"whatever")
                assert whole(client, 8) == b"whatever"
            else:
                assert hears_a_reset(client)
                with suppress(ConnectionResetError):
                    assert ruled not in whole(origin, len(again))


@in_trio
async def test_a_proxy_of_an_open_connection_is_not_asked_for_a_host_that_has_got_a_rule() -> None:
    async with passage(OPEN, OPTIONS) as opened:
        clients = []
        for _ in range(3):
            client = opened.client()
            client.sendall(HEADS["utf-8"])
            both_speak(opened, client, HEADS["utf-8"])
            client.sendall(b"\n")
            clients.append(client)
        asks, tunnels, goes_on = clients
        tunnels.sendall(b"CONNECT ruled.test:443 HTTP/1.1\r\n\r\n")
        assert whole(opened.arrivals[1], 36).endswith(b"443 HTTP/1.1\r\n\r\n")
        publish(opened, BESIDE, [ELSEWHERE])
        asks.sendall(b"GET http://ruled.test/ HTTP/1.1\r\nHost: ruled.test\r\n\r\n")
        assert hears_a_reset(asks)
        goes_on.sendall(b"GET http://a.test/ HTTP/1.1\r\n\r\n")
        assert whole(opened.arrivals[2], 32).endswith(b"a.test/ HTTP/1.1\r\n\r\n")


@in_trio
async def test_a_tunnel_ends_when_its_host_gets_a_rule() -> None:
    async with passage(OPEN, OPTIONS) as opened:
        publish(opened, replace(OPEN, hosts={"other.test": 0}), [ELSEWHERE])
        tunnel, other = opened.client(), opened.client()
        for client, host in ((tunnel, b"ruled.test"), (other, b"a.test")):
            client.sendall(HEADS["utf-8"])
            both_speak(opened, client, HEADS["utf-8"])
            words = b"\nCONNECT %b:443 HTTP/1.1\r\n\r\n" % host
            client.sendall(words)
            assert whole(opened.arrivals[-1], len(words)) == words
        publish(opened, BESIDE, [ELSEWHERE])
        assert hears_a_reset(tunnel)
        other.sendall(b"\x16\x03whatever")
        assert whole(opened.arrivals[-1], 10) == b"\x16\x03whatever"


@in_trio
async def test_large_content_that_no_one_can_frame_passes_beside_a_rule() -> None:
    content = b"GET /page HTTP/1.1\n" * 50_000 + bytes(range(256)) * 10_000
    async with passage(OPEN, OPTIONS) as opened:
        publish(opened, BESIDE, [ELSEWHERE])
        for first in (HEADS["coding"], HEADS["memcached"], b"\0"):
            client = opened.client()
            client.sendall(first)
            origin, heard = begun(opened)
            assert heard + whole(origin, len(first) - 1) == first
            with ThreadPoolExecutor(1) as pool, origin.makefile("rb") as reader:
                sent = pool.submit(client.sendall, content)
                assert reader.read(len(content)) == content
                sent.result()
            client.shutdown(socket.SHUT_WR)
            assert origin.recv(1) == b""
