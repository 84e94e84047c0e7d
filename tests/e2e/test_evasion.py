"""Ways in which a container tries to reach the server of a host that has a handler.

The server exists. As a control, every test ends with traffic that the rule does not match, which reaches it.
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
from tests.world import DEAD_V6, ORIGIN_V4, ORIGIN_V6, OTHER_V4, OTHER_V6, World

OPTIONS = Options(opening_deadline=1.0, sniff_wait=0.2)


class Guarded(Container):
    """ruled.test has a handler, although a server of that name exists."""


@Guarded.outbound_by_host("ruled.test")
async def answer(request: Any, env: Any, ctx: Any) -> Response:
    return Response("handled")


@pytest.fixture(autouse=True)
def ruled_server(world: World) -> None:
    world.name("ruled.test", ORIGIN_V4)


async def synthetic(scene: Scene) -> str:
    """Returns the synthetic address of ruled.test in the container."""
    found: str = (await scene.container.exec("getent ahostsv4 ruled.test", check=True)).text.split()[0]
    assert found.startswith("198.18.")
    return found


class Everything(Container):
    """Every host has a handler."""


@Everything.outbound
async def answer_all(request: Any, env: Any, ctx: Any) -> Response:
    return Response("handled")


async def other_protocols_still_pass(scene: Scene, address: str) -> None:
    """The control: the same container reaches a server that speaks first, at the same address."""
    client = await scene.client(address)
    origin = await scene.origin()
    assert origin.address == ORIGIN_V4
    await origin.says(b"220 welcome\r\n")
    await client.hears(b"220 welcome\r\n")
    await client.says(b"\x00hello")
    await origin.hears(b"\x00hello")


def hello(host: str) -> bytes:
    """Returns a TLS ClientHello for this host."""
    out = ssl.MemoryBIO()
    context = ssl.create_default_context()
    tls = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=host)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read()


@pytest.mark.parametrize("port", [80, PORT])
@pytest.mark.parametrize(
    "first",
    [
        hello("other.test"),
        hello("ruled.test"),
        hello("other.test")[:60],
        b"\x16\x03\x01\x40\x00\x01\x00\x7f\xff" + bytes(17_000),
        b"\x16\x03\x01\x00\x00" + hello("ruled.test"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
        b"G",
        b"\r\n",
        b"\x16",
    ],
    ids=["other-sni", "own-sni", "half-a-hello", "endless-hello", "empty-record"]
    + ["http2", "one-letter", "blank-line", "one-byte"],
)
def test_nothing_but_http_can_be_asked_of_a_ruled_host(first: bytes, port: int, world: World, instance: str) -> None:
    async def main() -> None:
        async with scene(world, Guarded, instance, OPTIONS) as opened:
            address = await synthetic(opened)
            client = await opened.client(address, port)
            await client.says(first)
            await client.hears_a_refusal()
            await other_protocols_still_pass(opened, address)

    trio.run(main)


@pytest.mark.parametrize("cls", [Guarded, Everything], ids=["named", "catch-all"])
@pytest.mark.parametrize(
    "first",
    [
        b"\x00hello",
        b"A" * 40 + b" / HTTP/1.1\r\nHost: ruled.test\r\n\r\n",
        b"GET /\x7f HTTP/1.1\r\nHost: ruled.test\r\n\r\n",
        b"OPTIONS * RTSP/1.0\r\nHost: ruled.test\r\n\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 80\r\nGET / HTTP/1.1\r\nHost: ruled.test\r\n\r\n",
    ],
    ids=["zero", "long-method", "del", "rtsp", "proxy"],
)
def test_opaque_words_reach_a_ruled_host_only_after_its_server_has_spoken(
    first: bytes, cls: type[Container], world: World, instance: str
) -> None:
    async def main() -> None:
        async with scene(world, cls, instance, OPTIONS) as opened:
            address = await synthetic(opened)
            client = await opened.client(address, 80)
            await client.says(first)
            await client.hears_a_reset()
            client = await opened.client(address)
            await client.says(first)
            origin = await opened.origin()  # the server could speak first, and doesn't
            await origin.hears_a_reset()
            await client.hears_a_reset()
            client = await opened.client(address)
            await client.says(first)
            origin = await opened.origin()
            await origin.says(b"SSH-2.0-server\r\n")
            await client.hears(b"SSH-2.0-server\r\n")
            await origin.hears(first)
            await other_protocols_still_pass(opened, address)

    trio.run(main)


def test_opaque_words_reach_a_host_that_no_rule_names(world: World, instance: str) -> None:
    async def main() -> None:
        async with scene(world, Guarded, instance, OPTIONS) as opened:
            client = await opened.client(OTHER_V4)
            await client.says(b"\x00hello")
            origin = await opened.origin()
            assert origin.address == OTHER_V4
            await origin.hears(b"\x00hello")

    trio.run(main)


@pytest.mark.parametrize("port", [80, PORT])
@pytest.mark.parametrize(
    "first",
    [b"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\nHost: x\n\n"]
    + [b"GET /\r\n\r\n", b" GET / HTTP/1.1\r\n\r\n"],
)
def test_a_request_that_only_a_lenient_server_accepts_is_refused_readably(
    first: bytes, port: int, world: World, instance: str
) -> None:
    async def main() -> None:
        async with scene(world, Guarded, instance, OPTIONS) as opened:
            address = await synthetic(opened)
            client = await opened.client(address, port)
            await client.says(first)
            assert (await client.response())[0] == 400
            await client.hears_the_end()
            await other_protocols_still_pass(opened, address)

    trio.run(main)


def test_another_hosts_name_does_not_open_a_ruled_hosts_address(world: World, instance: str) -> None:
    """The request reaches the host that it names, as through a proxy."""

    async def main() -> None:
        async with scene(world, Guarded, instance, OPTIONS) as opened:
            address = await synthetic(opened)
            client = await opened.client(address)
            await client.says(b"GET / HTTP/1.1\r\nHost: other.test\r\n\r\n")
            origin = await opened.origin()
            assert origin.address in (OTHER_V4, OTHER_V6)
            await origin.hears(b"GET / HTTP/1.1\r\nHost: other.test\r\n\r\n")
            await other_protocols_still_pass(opened, address)

    trio.run(main)


def test_a_handler_answers_a_client_that_is_silent_for_a_while(world: World, instance: str) -> None:
    async def main() -> None:
        async with scene(world, Guarded, instance, Options(opening_deadline=5.0, sniff_wait=0.1)) as opened:
            address = await synthetic(opened)
            client = await opened.client(address)
            origin = await opened.origin()  # after sniff_wait, since the server may speak first
            await client.says(b"GET / HTTP/1.1\r\nHost: ruled.test\r\n\r\n")
            assert await client.response() == (200, b"handled")
            await origin.hears_the_end()

    trio.run(main)


HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)
DOUBTFUL = [
    HTTP2,
    b"GET /\xc3\xa4 HTTP/1.1\r\nHost: x.test\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x.test\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
    b"get /key\r\n",
    b"CONNECT x.test:443 HTTP/1.1\r\nHost: x.test:443\r\n\r\n",
]


async def passes(scene: Scene, address: str, words: bytes) -> bool:
    """Returns whether the client's words reach a server at the address, and are not answered or reset instead."""
    heard = b""
    client = await scene.client(address)
    await client.says(words)
    async with trio.open_nursery() as nursery:

        async def wait_for_refusal() -> None:
            with suppress(trio.BrokenResourceError):
                await client.reads(1)
            nursery.cancel_scope.cancel()

        nursery.start_soon(wait_for_refusal)
        while heard != words:  # the server may be dialled before the words come; such a connection ends without them
            origin = await scene.origin()
            with suppress(trio.BrokenResourceError):
                heard = await origin.reads(len(words))
        assert origin.address == address
        nursery.cancel_scope.cancel()
    return heard == words


@pytest.mark.parametrize("first", DOUBTFUL, ids=["http2", "utf-8", "long-head", "memcached", "connect"])
def test_doubt_reaches_only_hosts_that_no_rule_names(first: bytes, world: World, instance: str) -> None:
    world.name("ruled.test", ORIGIN_V4, ORIGIN_V6)

    async def main() -> None:
        async with scene(world, Guarded, instance, OPTIONS) as opened:
            for address in (OTHER_V4, OTHER_V6):
                while not await passes(opened, address, first):  # noqa: ASYNC110
                    await trio.sleep(0.01)  # the rule's name isn't resolved yet
            for address in (ORIGIN_V4, ORIGIN_V6, await synthetic(opened)):
                assert not await passes(opened, address, first)
            for address in (OTHER_V4, OTHER_V6):
                assert await passes(opened, address, first)
        async with scene(world, Everything, instance, OPTIONS) as opened:
            assert not await passes(opened, OTHER_V4, first)

    trio.run(main)


class Addressed(Container):
    """The server's address has a handler, under every name."""


@Addressed.outbound_by_host(ORIGIN_V4)
async def answer_address(request: Any, env: Any, ctx: Any) -> Response:
    return Response("handled")


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\nHost: walk.test\r\n\r\n", b"\x00hello"], ids=["http", "opaque"])
def test_a_name_with_another_address_does_not_bypass_a_rule_for_an_address(
    first: bytes, world: World, instance: str
) -> None:
    """The name's first address is dead, so that the second one would be tried."""
    world.name("walk.test", DEAD_V6, ORIGIN_V4)
    world.name("free.test", DEAD_V6, OTHER_V4)
    options = Options(opening_deadline=5.0, sniff_wait=0.2, dial_deadline=1.5)

    async def main() -> None:
        async with scene(world, Addressed, instance, options) as opened:
            await opened.container.exec("getent ahosts walk.test", check=True)
            client = await opened.client(DEAD_V6)
            await client.says(first)
            if first.startswith(b"GET"):
                assert (await client.response())[0] == 502
            else:
                await client.hears_a_reset()
        async with scene(world, Addressed, instance, options) as opened:
            await opened.container.exec("getent ahosts free.test", check=True)
            client = await opened.client(DEAD_V6)
            await client.says(first.replace(b"walk", b"free"))
            origin = await opened.origin()
            assert origin.address == OTHER_V4
            await origin.hears(first.replace(b"walk", b"free"))

    trio.run(main)


def test_a_rule_for_an_address_holds_for_the_forms_that_hide_it(world: World, instance: str) -> None:
    hidden = f"64:ff9b::{ORIGIN_V4}"

    async def main() -> None:
        async with scene(world, Addressed, instance, OPTIONS) as opened:
            client = await opened.client(hidden, 80)
            await client.says(b"GET / HTTP/1.1\r\nHost: x.test\r\n\r\n")
            assert await client.response() == (200, b"handled")
            client = await opened.client(hidden, 80)
            await client.says(hello("x.test"))
            await client.hears_a_refusal()
            client = await opened.client(ORIGIN_V4, 80)
            await client.says(b"GET / HTTP/1.1\r\nHost: x.test\r\n\r\n")
            assert await client.response() == (200, b"handled")

    trio.run(main)
