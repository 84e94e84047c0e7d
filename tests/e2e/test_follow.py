"""One connection, request by request: spliced to an origin, handled, and back, as the policy decides each."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from pyinterceptor import Container, Response
from tests.e2e.dialogue import End, Scene, scene
from tests.world import ORIGIN_V4, World

Dialogue = Callable[[Scene], Awaitable[None]]
GET = b"GET /page HTTP/1.1\r\nHost: a.test\r\n\r\n"
ASK = b"GET /greeting HTTP/1.1\r\nHost: my.kv\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
PIECES = [0, 1]  # all at once, and byte by byte


class Handled(Container):
    """my.kv has a handler, everything else passes."""


@Handled.outbound_by_host("my.kv")
async def answer(request: Any, env: Any, ctx: Any) -> Response:
    return Response(f"{request.method} {request.url.path} {len(await request.bytes())}")


class Open(Container):
    """No rules."""


def play(world: World, instance: str, dialogue: Dialogue, cls: type[Container] = Handled) -> None:
    async def main() -> None:
        async with scene(world, cls, instance) as opened:
            await dialogue(opened)

    trio.run(main)


async def exchange(scene: Scene, client: Any, origin: Any, request: bytes = GET, response: bytes = OK) -> None:
    await client.says(request)
    await origin.hears(request)
    await origin.says(response)
    await client.hears(response)


async def asking(scene: Scene) -> tuple[End, End]:
    """Returns both ends of a flow whose request has reached an origin."""
    client = await scene.client()
    await client.says(GET)
    origin = await scene.origin()
    await origin.hears(GET)
    return client, origin


async def spliced(scene: Scene) -> tuple[End, End]:
    """Returns both ends of a flow after its first request and response; another request may follow."""
    client, origin = await asking(scene)
    await origin.says(OK)
    await client.hears(OK)
    return client, origin


async def asked(scene: Scene) -> End:
    """Returns the origin's connection on which GET arrives. Another one may come first and end: it was dialled before
    the client spoke, and a handler then answered the request."""
    while True:
        origin = await scene.origin()
        if said := await origin.reads(len(GET)):
            assert said == GET
            return origin


@pytest.mark.parametrize("piece", PIECES)
def test_a_spliced_connection_is_handled_from_the_request_that_a_rule_names(
    piece: int, world: World, instance: str
) -> None:
    async def dialogue(scene: Scene) -> None:
        client = await scene.client()
        await client.says(GET, piece=piece)
        origin = await scene.origin()
        await origin.hears(GET)
        await origin.says(OK, piece=piece)
        await client.hears(OK)
        await exchange(scene, client, origin)
        await client.says(ASK, piece=piece)
        assert await client.response() == (200, b"GET /greeting 0")
        await origin.hears_the_end()

    play(world, instance, dialogue)


@pytest.mark.parametrize("piece", PIECES)
def test_a_handled_connection_passes_the_request_that_no_rule_names(piece: int, world: World, instance: str) -> None:
    async def dialogue(scene: Scene) -> None:
        client = await scene.client()
        await client.says(ASK, piece=piece)
        assert await client.response() == (200, b"GET /greeting 0")
        await client.says(GET, piece=piece)
        await (await asked(scene)).says(OK, piece=piece)
        assert await client.response() == (200, b"ok")
        await client.says(ASK)
        assert await client.response() == (200, b"GET /greeting 0")

    play(world, instance, dialogue)


@pytest.mark.parametrize("piece", PIECES)
def test_pipelined_requests_are_answered_in_order_each_by_its_own_decision(
    piece: int, world: World, instance: str
) -> None:
    async def dialogue(scene: Scene) -> None:
        client = await scene.client()
        await client.says(GET + GET + ASK + ASK, piece=piece)
        origin = await scene.origin()
        for _ in range(2):
            await origin.hears(GET)
            await origin.says(OK, piece=piece)
            await client.hears(OK)
        assert await client.response() == (200, b"GET /greeting 0")
        assert await client.response() == (200, b"GET /greeting 0")
        await origin.hears_the_end()

    play(world, instance, dialogue)


CHUNKED = b"3;x=y\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nTrailer: t\r\n\r\n"
REQUESTS = {
    "length": b"POST /a HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello",
    "chunked": b"POST /a HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nTrailer: t\r\n\r\n" + CHUNKED,
    "head": b"HEAD /a HTTP/1.1\r\nHost: a.test\r\n\r\n",
    "conditional": b'GET /a HTTP/1.1\r\nHost: a.test\r\nIf-None-Match: "x"\r\n\r\n',
    "empty": b"DELETE /a HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n",
}
RESPONSES = {
    "length": OK,
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED,
    "head": b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n",
    "conditional": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 100000\r\n\r\n",
    "empty": b"HTTP/1.1 204 No Content\r\n\r\n",
}


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("framing", REQUESTS)
def test_every_framing_is_passed_to_the_byte_and_its_end_is_found(
    framing: str, piece: int, world: World, instance: str
) -> None:
    async def dialogue(scene: Scene) -> None:
        client = await scene.client()
        request, response = REQUESTS[framing], RESPONSES[framing]
        await client.says(request, piece=piece)
        origin = await scene.origin()
        await origin.hears(request)
        await origin.says(response, piece=piece)
        await client.hears(response)
        await exchange(scene, client, origin, request, response)
        await client.says(ASK)
        assert await client.response() == (200, b"GET /greeting 0")

    play(world, instance, dialogue)


@pytest.mark.parametrize("piece", PIECES)
def test_an_expected_continue_and_early_hints_pass_before_the_response(
    piece: int, world: World, instance: str
) -> None:
    head = b"POST /a HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"

    async def dialogue(scene: Scene) -> None:
        client = await scene.client()
        await client.says(head, piece=piece)
        origin = await scene.origin()
        await origin.hears(head)
        await origin.says(interim, piece=piece)
        await client.hears(interim)
        await client.says(b"hello", piece=piece)
        await origin.hears(b"hello")
        await origin.says(OK)
        await client.hears(OK)
        await client.says(ASK)
        assert await client.response() == (200, b"GET /greeting 0")

    play(world, instance, dialogue)


def test_a_handler_is_asked_with_expect_continue_after_a_splice(world: World, instance: str) -> None:
    async def dialogue(scene: Scene) -> None:
        client, _ = await spliced(scene)
        await client.says(b"PUT /x HTTP/1.1\r\nHost: my.kv\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        await client.hears(b"HTTP/1.1 100 Continue\r\n\r\n")
        await client.says(b"hello")
        assert await client.response() == (200, b"PUT /x 5")

    play(world, instance, dialogue)


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_large_bodies_pass_whole_both_ways(framing: str, world: World, instance: str) -> None:
    body = bytes(range(256)) * 40_000
    if framing == "length":
        field, coded = f"Content-Length: {len(body)}", body
    else:
        pieces = [body[at : at + 70_000] for at in range(0, len(body), 70_000)]
        field = "Transfer-Encoding: chunked"
        coded = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    request = f"POST /a HTTP/1.1\r\nHost: a.test\r\n{field}\r\n\r\n".encode() + coded
    response = f"HTTP/1.1 200 OK\r\n{field}\r\n\r\n".encode() + coded

    async def dialogue(scene: Scene) -> None:
        client = await scene.client()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.says, request)
            origin = await scene.origin()
            assert digest(await origin.reads(len(request))) == digest(request)
            nursery.start_soon(origin.says, response)
            assert digest(await client.reads(len(response))) == digest(response)
        await client.says(ASK)
        assert await client.response() == (200, b"GET /greeting 0")

    play(world, instance, dialogue)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
        b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
        b"ICY 200 OK\r\n\r\nnot quite HTTP",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnot a chunk",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
    ],
)
def test_no_request_follows_a_response_that_ends_with_its_connection(
    response: bytes, world: World, instance: str
) -> None:
    async def dialogue(scene: Scene) -> None:
        client, origin = await asking(scene)
        await origin.says(response)
        await client.hears(response)
        await client.says(ASK)
        await origin.says_no_more()
        await client.hears_the_end()
        await client.says_no_more()
        await origin.hears_the_end()

    play(world, instance, dialogue)


def test_after_an_upgrade_bytes_pass_unseen(world: World, instance: str) -> None:
    ask = b"GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x02hi"

    async def dialogue(scene: Scene) -> None:
        client = await scene.client()
        await client.says(ask)
        origin = await scene.origin()
        await origin.hears(ask)
        await origin.says(switched)
        await client.hears(switched)
        await client.says(ASK)
        await origin.hears(ASK)

    play(world, instance, dialogue)


def test_a_request_body_that_cannot_be_read_ends_a_connection_to_a_ruled_host_s_server(
    world: World, instance: str
) -> None:
    world.name("broken.test", ORIGIN_V4)
    world.name("shared.test", ORIGIN_V4)

    class Ruled(Container):
        outbound_by_host = {"broken.test": answer}

    async def dialogue(scene: Scene) -> None:
        await scene.container.exec("getent ahosts shared.test", check=True)
        client = await scene.client()
        await client.says(b"POST / HTTP/1.1\r\nHost: shared.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        origin = await scene.origin()
        await origin.head()
        await origin.hears(b"1\r\na\r\n")
        await client.says(b"zz\r\n")
        await client.hears_a_reset()
        await origin.hears_a_reset()

    play(world, instance, dialogue, Ruled)


def test_a_replaced_policy_decides_the_next_request_and_drops_no_connection(world: World, instance: str) -> None:
    class Changing(Container):
        """Its rules change during the test."""

    async def dialogue(scene: Scene) -> None:
        followed, handled = await scene.client(), await scene.client(port=80)
        await followed.says(GET)
        origin = await scene.origin()
        await origin.hears(GET)
        Changing.outbound_by_host = {"a.test": answer}
        await scene.interceptor.replace_policy(Changing)
        await origin.says(OK)
        await followed.hears(OK)  # it was decided before the change
        await followed.says(GET)
        assert await followed.response() == (200, b"GET /page 0")
        await handled.says(GET)
        assert await handled.response() == (200, b"GET /page 0")
        Changing.outbound_by_host = {}
        Changing.enable_internet = False
        await scene.interceptor.replace_policy(Changing)
        for client in (followed, handled):
            await client.says(GET)
            assert (await client.response())[0] == 520
        Changing.enable_internet = True
        await scene.interceptor.replace_policy(Changing)
        await followed.says(GET)
        await (await asked(scene)).says(OK)
        assert await followed.response() == (200, b"ok")

    play(world, instance, dialogue, Changing)


UPGRADE = b"GET /ws HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


@pytest.mark.parametrize("is_handled_first", [True, False], ids=["in Python", "in C"])
def test_a_replaced_policy_resets_the_tunnels_that_it_refuses_and_no_others(
    is_handled_first: bool, world: World, instance: str
) -> None:
    class Changing(Container):
        """my.kv has a handler; a.test is refused later in the test."""

    Changing.outbound_by_host = {"my.kv": answer}

    async def tunnel(scene: Scene, host: bytes) -> tuple[End, End]:
        client = await scene.client()
        if is_handled_first:
            await client.says(ASK)
            assert await client.response() == (200, b"GET /greeting 0")
        await client.says(UPGRADE % host)
        origin = await scene.origin()
        while not await origin.head():  # dialled before the client spoke
            origin = await scene.origin()
        await origin.says(SWITCHED)
        assert (await client.head()).startswith(b"HTTP/1.1 101")
        await passes(client, origin)
        return client, origin

    async def passes(client: End, origin: End) -> None:
        await client.says(b"ping")
        await origin.hears(b"ping")
        await origin.says(b"pong")
        await client.hears(b"pong")

    async def dialogue(scene: Scene) -> None:
        client, origin = await tunnel(scene, b"a.test")
        kept = await tunnel(scene, b"b.test")
        await passes(client, origin)
        Changing.enable_internet = False
        Changing.outbound_by_host = {"my.kv": answer, "b.test": answer}
        await scene.interceptor.replace_policy(Changing)
        await client.hears_a_reset()
        assert await ended(origin)
        await passes(*kept)  # a handler can't take it over

    play(world, instance, dialogue, Changing)


async def ended(end: End) -> bool:
    """Whether the connection ends, in order or by a reset, and nothing comes before."""
    try:
        return await end.reads(1) == b""
    except trio.BrokenResourceError:
        return True


def test_a_request_that_is_not_followed_is_decided_by_the_replaced_policy_too(world: World, instance: str) -> None:
    old = b"GET /page HTTP/1.0\r\nHost: a.test\r\n\r\n"

    class Changing(Container):
        """No rules, and no internet later in the test."""

    async def dialogue(scene: Scene) -> None:
        client, origin = await spliced(scene)
        await client.says(old)
        await origin.hears(old)
        client, origin = await spliced(scene)
        Changing.enable_internet = False
        await scene.interceptor.replace_policy(Changing)
        await client.says(old)
        assert (await client.response())[0] == 520
        await origin.hears_the_end()

    play(world, instance, dialogue, Changing)


def test_without_rules_nothing_is_refused_or_changed(world: World, instance: str) -> None:
    strange = b"get / http/9.9\nHost : x\n\nwhatever"

    async def dialogue(scene: Scene) -> None:
        for first in (b"", GET):
            client = await scene.client()
            await client.says(first or strange)
            origin = await scene.origin()
            await origin.hears(first or strange)
            if first:
                await origin.says(OK)
                await client.hears(OK)
                await client.says(strange)
                await origin.hears(strange)
            await origin.says(b"strange too")
            await client.hears(b"strange too")

    play(world, instance, dialogue, Open)


def test_a_half_closed_request_is_answered(world: World, instance: str) -> None:
    async def dialogue(scene: Scene) -> None:
        client = await scene.client()
        await client.says(GET)
        await client.says_no_more()
        origin = await scene.origin()
        await origin.hears(GET)
        await origin.hears_the_end()
        await origin.says(OK)
        await origin.says_no_more()
        await client.hears(OK)
        await client.hears_the_end()

    play(world, instance, dialogue)


def test_a_server_that_closes_between_two_requests_is_heard(world: World, instance: str) -> None:
    async def dialogue(scene: Scene) -> None:
        for last_words in (b"", b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"):
            client, origin = await spliced(scene)
            await origin.says(last_words)
            await origin.says_no_more()
            await client.hears(last_words)
            await client.hears_the_end()

    play(world, instance, dialogue)


def test_a_reset_on_one_side_becomes_a_reset_on_the_other(world: World, instance: str) -> None:
    async def dialogue(scene: Scene) -> None:
        client, origin = await asking(scene)
        await origin.resets()
        await client.hears_a_reset()
        client, origin = await asking(scene)
        await client.resets()
        await origin.hears_a_reset()

    play(world, instance, dialogue)


def test_bytes_that_a_server_sends_before_its_reset_arrive(world: World, instance: str) -> None:
    async def dialogue(scene: Scene) -> None:
        for _ in range(20):
            client, origin = await asking(scene)
            await origin.says(OK)
            await origin.resets()
            await client.hears(OK)
            await client.hears_a_reset()

    play(world, instance, dialogue)
