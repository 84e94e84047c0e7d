"""The alert that a refused TLS client gets, over loopback."""

from __future__ import annotations

import socket
import ssl
from dataclasses import replace

import pytest
import trio

from pyinterceptor.policy.rules import Rules
from tests.socket.loopback import in_trio
from tests.socket.passage import CONTAINER, OPEN, Passage, hears_a_reset, passage

ALERT = bytes([21, 3, 3, 0, 2, 2, 49])  # RFC 8446 section 6.2: fatal, access_denied
CLOSED = replace(OPEN, internet=False)
HANDLED = replace(OPEN, catch_all=0)


def hello(host: str) -> bytes:
    """Returns a ClientHello for this host."""
    out = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname=host)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return out.read()


def hears_the_alert(end: socket.socket) -> bool:
    """Whether the alert comes next, and then an orderly end."""
    said = end.recv(100)
    return said == ALERT and end.recv(1) == b""


@pytest.mark.parametrize("rules", [CLOSED, HANDLED], ids=["closed", "handled"])
@pytest.mark.parametrize("more", [b"", bytes(1_000)], ids=["hello alone", "hello with early data"])
@in_trio
async def test_a_refused_tls_client_gets_the_alert_and_an_orderly_end(rules: Rules, more: bytes) -> None:
    async with passage(rules) as opened:
        client = opened.client()
        client.sendall(hello("a.test") + more)
        assert hears_the_alert(client)
        while opened.relay.count(CONTAINER).flows:
            await trio.lowlevel.checkpoint()


@in_trio
async def test_pythons_tls_says_that_access_was_denied() -> None:
    async with passage(CLOSED) as opened:
        client = opened.client()
        with pytest.raises(ssl.SSLError, match="ACCESS_DENIED"):
            ssl.create_default_context().wrap_socket(client, server_hostname="a.test")


@in_trio
async def test_a_hello_that_comes_byte_by_byte_is_answered_when_it_is_whole() -> None:
    async with passage(CLOSED) as opened:
        client = opened.client()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in hello("a.test"):
            client.sendall(bytes([byte]))
        assert hears_the_alert(client)


@in_trio
async def test_a_policy_resets_a_client_that_has_heard_its_server() -> None:
    """An alert in clear text would not be TLS any more."""
    async with passage() as opened:
        heard, unheard = begun(opened), begun(opened)
        heard[1].sendall(b"\x16\x03\x03\x00\x01\x02")
        assert heard[0].recv(6, socket.MSG_WAITALL) == b"\x16\x03\x03\x00\x01\x02"
        opened.publish(CLOSED)
        assert hears_a_reset(heard[0])
        assert hears_the_alert(unheard[0])


def begun(opened: Passage) -> tuple[socket.socket, socket.socket]:
    """Returns both ends of a flow whose hello has reached the origin."""
    client, said = opened.client(), hello("a.test")
    client.sendall(said)
    origin = opened.arrived()
    assert origin.recv(len(said), socket.MSG_WAITALL) == said
    return client, origin


@in_trio
async def test_other_refused_clients_are_reset() -> None:
    async with passage(CLOSED) as opened:
        client = opened.client()
        client.sendall(b"SSH-2.0-a\r\n")
        assert hears_a_reset(client)
