"""Flows to the real address of a host that a rule names, under another name or none.

Such a flow goes where its name leads, or is refused if it says none. As a control, every test ends with traffic that
reaches the dialled address.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Any

import pytest
import trio

from pyinterceptor import Container, Response
from pyinterceptor.relay.relay import Options
from tests.e2e.dialogue import PORT, Scene, scene
from tests.world import ORIGIN_V4, ORIGIN_V6, OTHER_V4, OTHER_V6, World

OPTIONS = Options(opening_deadline=2.0, sniff_wait=0.3)
RULED, OTHER = (ORIGIN_V4, ORIGIN_V6), (OTHER_V4, OTHER_V6)


class Guarded(Container):
    """ruled.test has a handler, although a server of that name exists."""


@Guarded.outbound_by_host("ruled.test")
async def answer(request: Any, env: Any, ctx: Any) -> Response:
    return Response("handled")


class Everything(Container):
    """Every host has a handler."""


@Everything.outbound
async def answer_all(request: Any, env: Any, ctx: Any) -> Response:
    return Response("handled")


@pytest.fixture(autouse=True)
def names(world: World) -> None:
    world.name("ruled.test", *RULED)
    world.name("shared.test", *RULED)


def hello(host: str | None, *, grease: bool = False) -> bytes:
    """Returns a ClientHello; with `grease`, it has an encrypted_client_hello as every one of Chrome's."""
    context = ssl.create_default_context()
    context.check_hostname = False
    out = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=host).do_handshake()
    message = out.read()[9:]
    if grease:
        at = 34 + 1 + message[34]
        at += 2 + int.from_bytes(message[at : at + 2], "big")
        at += 1 + message[at]
        extensions = message[at + 2 :] + b"\xfe\x0d\x00\x20" + bytes(32)
        message = message[:at] + len(extensions).to_bytes(2, "big") + extensions
    handshake = b"\x01" + len(message).to_bytes(3, "big") + message
    return b"\x16\x03\x01" + len(handshake).to_bytes(2, "big") + handshake


def get(host: str) -> bytes:
    return f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SAYS_OTHER = {
    "http": get("other.test"),
    "http-port": get(f"Other.Test.:{PORT}"),
    "absolute": b"GET http://other.test/ HTTP/1.1\r\nHost: other.test\r\n\r\n",
    "upload": b"POST / HTTP/1.1\r\nHost: other.test\r\nContent-Length: 5\r\n\r\nhello",
    "tls": hello("other.test"),
    "grease": hello("other.test", grease=True),
}


async def goes_to(scene: Scene, address: str, words: bytes, where: tuple[str, ...], *, piece: int = 0) -> None:
    client = await scene.client(address)
    await client.says(words, piece=piece)
    origin = await scene.origin()
    assert origin.address in where
    await origin.hears(words)
    await origin.says(OK)
    await client.hears(OK)


async def asks_dns(scene: Scene, name: str) -> None:
    await scene.container.exec(f"getent ahosts {name}", check=True)


@pytest.mark.parametrize("piece", [0, 7])
@pytest.mark.parametrize("words", SAYS_OTHER.values(), ids=SAYS_OTHER)
def test_a_flow_to_a_ruled_address_goes_where_its_name_leads(
    words: bytes, piece: int, world: World, instance: str
) -> None:
    async def main() -> None:
        async with scene(world, Guarded, instance, OPTIONS) as opened:
            for address in RULED:
                await goes_to(opened, address, words, OTHER, piece=piece)
            for address in OTHER:
                await goes_to(opened, address, words, (address,), piece=piece)

    trio.run(main)


@pytest.mark.parametrize("words", [get("shared.test"), hello("shared.test"), hello("shared.test", grease=True)])
def test_a_name_for_which_our_dns_gave_the_address_goes_on_as_dialled(
    words: bytes, world: World, instance: str
) -> None:
    async def main() -> None:
        async with scene(world, Guarded, instance, OPTIONS) as opened:
            await asks_dns(opened, "shared.test")
            for address in RULED:
                await goes_to(opened, address, words, (address,))
            await goes_to(opened, ORIGIN_V4, get("other.test"), OTHER)

    trio.run(main)


@pytest.mark.parametrize("address", [*RULED, f"64:ff9b::{ORIGIN_V4}"])
def test_a_flow_to_a_ruled_address_without_a_name_is_refused(address: str, world: World, instance: str) -> None:
    shown = f"[{address}]" if ":" in address else address

    async def main() -> None:
        async with scene(world, Guarded, instance, OPTIONS) as opened:
            for words in (hello(None), hello("ruled.test"), b"\x16\x03\x01\x00\x05\x01\0\0\x01\0"):
                client = await opened.client(address)
                await client.says(words)
                await client.hears_a_refusal()
            for words in (
                get(shown),
                get(f"{shown}:{PORT}"),
                get(f"[::ffff:{ORIGIN_V4}]"),
                b"GET / HTTP/1.0\r\n\r\n",
            ):
                client = await opened.client(address)
                await client.says(words)
                status, body = await client.response()
                assert (status, body.startswith(b"Origin is disallowed")) == (520, True)
            client = await opened.client(address)
            await client.says(get("nowhere.test"))
            assert (await client.response())[0] == 502
            client = await opened.client(address)
            await client.says(get("ruled.test"))
            assert await client.response() == (200, b"handled")
            await goes_to(opened, OTHER_V4, hello(None), (OTHER_V4,))
            await goes_to(opened, OTHER_V4, get(OTHER_V4), (OTHER_V4,))

    trio.run(main)


def test_a_proxy_is_not_asked_for_the_address_of_a_ruled_host(world: World, instance: str) -> None:
    def absolute(host: str) -> bytes:
        return f"GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()

    async def main() -> None:
        async with scene(world, Guarded, instance, OPTIONS) as opened:
            await goes_to(opened, OTHER_V4, absolute("192.0.2.1"), (OTHER_V4,))
            client = await opened.client(OTHER_V4)
            await client.says(absolute("free.test"))
            origin = await opened.origin()
            await origin.hears(absolute("free.test"))
            await origin.says(OK)
            await client.hears(OK)
            await client.says(absolute(ORIGIN_V4))
            assert (await client.response())[0] == 520
            client = await opened.client(OTHER_V4)
            await client.says(absolute(ORIGIN_V4))
            assert (await client.response())[0] == 520

    trio.run(main)


def test_each_request_of_a_connection_goes_where_its_name_leads(world: World, instance: str) -> None:
    async def main() -> None:
        async with scene(world, Guarded, instance, OPTIONS) as opened:
            await asks_dns(opened, "shared.test")
            client = await opened.client(ORIGIN_V4)
            await client.says(get("shared.test"))
            first = await opened.origin()
            assert first.address == ORIGIN_V4
            for _ in range(2):
                await first.hears(get("shared.test"))
                await first.says(OK)
                await client.hears(OK)
                await client.says(get("shared.test"))
            await first.hears(get("shared.test"))
            await first.says(OK)
            await client.hears(OK)
            await client.says(get("other.test"))
            origin = await opened.origin()
            assert origin.address in OTHER
            assert (await origin.head()).lower().startswith(b"get / http/1.1\r\nhost: other.test\r\n")
            await origin.says(OK)
            assert await client.response() == (200, b"ok")
            for host, status in (("ruled.test", 200), (ORIGIN_V4, 520), ("nowhere.test", 502)):
                await client.says(get(host))
                assert (await client.response())[0] == status
            await first.hears_the_end()

            client = await opened.client(ORIGIN_V4)
            await client.says(get("other.test"))
            other = await opened.origin()
            assert other.address in OTHER
            await other.hears(get("other.test"))
            await other.says(OK)
            await client.hears(OK)
            await client.says(get("shared.test"))
            origin = await opened.origin()
            assert origin.address == ORIGIN_V4
            assert b"shared.test" in await origin.head()

    trio.run(main)


@pytest.mark.parametrize("words", [get("other.test"), hello("other.test")], ids=["http", "tls"])
def test_a_client_that_was_silent_leaves_the_server_that_was_dialled_for_it(
    words: bytes, world: World, instance: str
) -> None:
    async def main() -> None:
        async with scene(world, Guarded, instance, OPTIONS) as opened:
            client = await opened.client(ORIGIN_V4)
            early = await opened.origin()
            assert early.address == ORIGIN_V4
            await client.says(words)
            origin = await opened.origin()
            assert origin.address in OTHER
            await origin.hears(words)
            await early.hears_the_end()
            await origin.says(OK)
            await client.hears(OK)

            client = await opened.client(ORIGIN_V4)
            early = await opened.origin()
            await early.says(b"220 welcome\r\n")
            await client.hears(b"220 welcome\r\n")
            await client.says(words)
            await client.hears_a_reset()

            client = await opened.client(ORIGIN_V4)
            origin = await opened.origin()
            await origin.says(b"220 welcome\r\n")
            await client.hears(b"220 welcome\r\n")
            await client.says(b"EHLO me\r\n")
            await origin.hears(b"EHLO me\r\n")

    trio.run(main)


OPENINGS = {
    "ssh": b"SSH-2.0-OpenSSH_9\r\n",
    "openvpn": b"\0\x0e\x38" + bytes(13),
    "rtsp": b"OPTIONS rtsp://free.test/ RTSP/1.0\r\nCSeq: 1\r\n\r\n",
    "sip": b"REGISTER sip:free.test SIP/2.0\r\n\r\n",
    "icecast": b"SOURCE /live ICE/1.0\r\n\r\n",
    "ldap": b"0\x0c\x02\x01\x01`\x07\x02\x01\x03\x04\0\x80\0",
    "ldap-simple": b"0\x20\x02\x01\x01`\x1b\x02\x01\x03\x04\x0ecn=me,dc=a,dc=b\x80\x06secret" + b"x" * 40,
    "redis": b"PING\r\n",
    "proxy-v1": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 80\r\n" + get("free.test"),
    "proxy-v2": b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12) + get("free.test"),
    "long-method": b"A" * 40 + b" / HTTP/1.1\r\nHost: free.test\r\n\r\n",
    "nul": b"GET /\0 HTTP/1.1\r\nHost: free.test\r\n\r\n",
    "any": b"x y z/9.9\r\n",
    "long-line": b"GET /" + b"a" * 20_000 + b" RTSP/1.0\r\n\r\n",
}


@pytest.mark.parametrize("piece", [0, 5])
@pytest.mark.parametrize("first", OPENINGS.values(), ids=OPENINGS)
def test_an_opaque_client_that_speaks_first_reaches_only_hosts_without_a_rule(
    first: bytes, piece: int, world: World, instance: str
) -> None:
    piece = piece and len(first) // piece
    options = Options(opening_deadline=1.0, sniff_wait=0.2)

    async def refused(scene: Scene, address: str) -> None:
        """A server is dialled, since it could speak first, but it hears nothing."""
        client = await scene.client(address)
        with suppress(trio.BrokenResourceError):
            await client.says(first, piece=piece)
        async with trio.open_nursery() as nursery:

            async def hears_nothing() -> None:
                origin = await scene.origin()
                with suppress(trio.BrokenResourceError):
                    assert await origin.reads(1) == b""

            nursery.start_soon(hears_nothing)
            said = b""
            with suppress(trio.BrokenResourceError):
                said = await client.reads(1000)
            assert said == b"" or said.startswith(b"HTTP/1.1 4")
            nursery.cancel_scope.cancel()

    async def main() -> None:
        async with scene(world, Guarded, instance, options) as opened:
            for address in OTHER:
                await goes_to(opened, address, first, (address,), piece=piece)
            for address in RULED:
                await refused(opened, address)
            await goes_to(opened, OTHER_V4, first, (OTHER_V4,), piece=piece)

    trio.run(main)


def test_ssh_passes_on_port_443_of_a_host_without_a_rule(world: World, instance: str) -> None:
    async def main() -> None:
        async with scene(world, Guarded, instance, OPTIONS) as opened:
            client = await opened.client(OTHER_V4, 443)
            await client.says(b"SSH-2.0-OpenSSH_9\r\n")
            assert await client.reads(1) in (b"H", b"\x15", b"")  # nginx answers
            client = await opened.client(ORIGIN_V4, 443)
            await client.says(b"SSH-2.0-OpenSSH_9\r\n")
            await client.hears_a_reset()

    trio.run(main)
