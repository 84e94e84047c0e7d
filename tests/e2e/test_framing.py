"""Answers that are hard to frame, and content that servers could take for requests, on followed connections."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from pyinterceptor import Container, Response
from pyinterceptor.relay.relay import Options
from tests.e2e.dialogue import Scene, scene
from tests.world import ORIGIN_V4, World
from tests.world.odd import DOUBTFUL, FRAMED

Dialogue = Callable[[Scene], Awaitable[None]]
GET = b"GET /page HTTP/1.1\r\nHost: a.test\r\n\r\n"
ASK = b"GET /greeting HTTP/1.1\r\nHost: my.kv\r\n\r\n"
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
START = b"HTTP/1.1 200 OK\r\n"


class Handled(Container):
    """my.kv has a handler, everything else passes."""


@Handled.outbound_by_host("my.kv")
async def answer(request: Any, env: Any, ctx: Any) -> Response:
    return Response(f"{request.method} {request.url.path} {len(await request.bytes())}")


class Open(Container):
    """No rules."""


def play(
    world: World, instance: str, dialogue: Dialogue, cls: type[Container] = Handled, options: Options | None = None
) -> None:
    async def main() -> None:
        async with scene(world, cls, instance, options) as opened:
            await dialogue(opened)

    trio.run(main)


@pytest.mark.parametrize("cls", [Handled, Open])
@pytest.mark.parametrize("case", FRAMED)
def test_a_connection_goes_on_after_an_answer_whose_length_is_in_no_doubt(
    case: str, cls: type[Container], world: World, instance: str
) -> None:
    async def dialogue(scene: Scene) -> None:
        client = await scene.client()
        await client.says(GET)
        origin = await scene.origin()
        await origin.hears(GET)
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(origin.says, FRAMED[case])
                await client.hears(FRAMED[case])
            await client.says(GET)
            await origin.hears(GET)
        await origin.says(PLAIN)
        await client.hears(PLAIN)
        if cls is Handled:  # it is still followed
            await client.says(ASK)
            assert await client.response() == (200, b"GET /greeting 0")
            await origin.hears_the_end()

    play(world, instance, dialogue, cls)


async def doubted(scene: Scene, case: str) -> tuple[Any, Any]:
    """Returns both ends after an answer whose end is in doubt, and a further request of the client."""
    client = await scene.client()
    await client.says(GET)
    origin = await scene.origin()
    await origin.hears(GET)
    await origin.says(DOUBTFUL[case])
    await client.hears(DOUBTFUL[case])
    await client.says(GET)
    return client, origin


@pytest.mark.parametrize("case", DOUBTFUL)
def test_an_answer_whose_end_is_in_doubt_is_the_last_if_rules_could_differ(
    case: str, world: World, instance: str
) -> None:
    async def dialogue(scene: Scene) -> None:
        client, origin = await doubted(scene, case)
        await origin.says(b"more")
        await client.hears(b"more")
        await origin.says_no_more()
        await client.hears_the_end()
        await origin.hears_the_end()

    play(world, instance, dialogue)


@pytest.mark.parametrize("case", DOUBTFUL)
def test_a_connection_in_doubt_is_closed_a_while_after_its_last_byte(case: str, world: World, instance: str) -> None:
    async def dialogue(scene: Scene) -> None:
        client, origin = await doubted(scene, case)
        began = trio.current_time()
        await origin.says(b"more")
        await client.hears(b"more")
        await client.hears_the_end()
        assert trio.current_time() - began >= 0.5
        await origin.hears_the_end()
        await scene.client()  # a new connection works
        await scene.origin()

    play(world, instance, dialogue, options=Options(close_deadline=0.5))


@pytest.mark.parametrize("case", DOUBTFUL)
def test_without_rules_an_answer_whose_end_is_in_doubt_leaves_the_connection_as_it_is(
    case: str, world: World, instance: str
) -> None:
    async def dialogue(scene: Scene) -> None:
        client, origin = await doubted(scene, case)
        await origin.hears(GET)
        await origin.says(PLAIN)
        await client.hears(PLAIN)
        await client.says(b"anything")
        await origin.hears(b"anything")

    play(world, instance, dialogue, Open, Options(close_deadline=0.2))


def test_a_connection_that_its_server_should_close_is_closed_in_its_place(world: World, instance: str) -> None:
    last = START + b"Connection: close\r\nContent-Length: 2\r\n\r\nok"

    async def dialogue(scene: Scene) -> None:
        client = await scene.client()
        await client.says(GET + GET)
        origin = await scene.origin()
        await origin.hears(GET)
        await origin.says(last)
        await client.hears(last)
        await client.hears_the_end()
        await origin.hears_the_end()

    play(world, instance, dialogue, options=Options(close_deadline=0.5))


def test_an_answer_that_ends_with_the_close_may_pause(world: World, instance: str) -> None:
    events = START + b"Content-Type: text/event-stream\r\n\r\ndata: 1\n\n"

    async def dialogue(scene: Scene) -> None:
        client = await scene.client()
        await client.says(GET)
        origin = await scene.origin()
        await origin.hears(GET)
        await origin.says(events)
        await client.hears(events)
        await trio.sleep(1.0)  # five times the deadline of a connection that is over
        await origin.says(b"data: 2\n\n")
        await client.hears(b"data: 2\n\n")

    play(world, instance, dialogue, options=Options(close_deadline=0.2))


def test_a_slow_client_is_given_the_whole_of_an_answer_in_doubt(world: World, instance: str) -> None:
    body = bytes(range(256)) * 100_000
    response = START + b"Content-Length: 1\r\nContent-Length: %d\r\n\r\n" % len(body)

    async def dialogue(scene: Scene) -> None:
        client = await scene.client()
        await client.says(GET)
        origin = await scene.origin()
        await origin.hears(GET)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(origin.says, response + body)
            await client.hears(response)
            await trio.sleep(1.0)  # the buffers are full for five times the deadline
            await client.hears(body)
        await client.hears_the_end()

    play(world, instance, dialogue, options=Options(close_deadline=0.2))


async def speaking(scene: Scene) -> tuple[Any, bytes]:
    """Returns the origin's next connection on which a head arrives, and the head.

    Another may come first and end: it was dialled before the client spoke.
    """
    while True:
        origin = await scene.origin()
        if head := await origin.head():
            return origin, head


def with_content(method: bytes, framing: str) -> bytes:
    """Returns a request to a.test whose content is a request for my.kv."""
    if framing == "length":
        return method + b" /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: %d\r\n\r\n" % len(ASK) + ASK
    head = method + b" /x HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(ASK), ASK)


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize(
    ("method", "is_first"), [(b"GET", True), (b"GET", False), (b"DELETE", False), (b"HEAD", False), (b"post", False)]
)
def test_content_that_a_server_could_take_for_requests_has_a_connection_of_its_own(
    method: bytes, is_first: bool, framing: str, world: World, instance: str
) -> None:
    """The server, which is that of a host with a rule, answers twice.

    The client is given one answer, and its next request another connection.
    """
    world.name("my.kv", ORIGIN_V4)
    world.name("a.test", ORIGIN_V4)  # or the server of my.kv would not be reached under this name
    bodiless = method == b"HEAD"
    one = START + b"Content-Length: 3\r\n\r\n" + (b"" if bodiless else b"one")

    async def dialogue(scene: Scene) -> None:
        client = await scene.client()
        if not is_first:
            await client.says(GET)
            before = await scene.origin()
            await before.hears(GET)
            await before.says(PLAIN)
            await client.hears(PLAIN)
        await client.says(with_content(method, framing))
        if not is_first:
            await before.hears_the_end()
        own, head = await speaking(scene)
        assert head.startswith(method + b" /x HTTP/1.1\r\n")
        await own.says(one + PLAIN)
        assert b" 200 " in (await client.head()).split(b"\r\n")[0]
        if not bodiless:
            await client.hears(b"one")
        await client.says(GET)
        other = await scene.origin()
        assert (await other.head()).startswith(b"GET /page ")
        await other.says(PLAIN.replace(b"ok", b"on"))
        assert await client.response() == (200, b"on")

    play(world, instance, dialogue)
    world.name("my.kv")


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize(
    ("method", "cls"), [(b"POST", Handled), (b"REPORT", Handled), (b"LOCK", Handled), (b"GET", Open), (b"DELETE", Open)]
)
def test_other_content_stays_on_its_connection(
    method: bytes, cls: type[Container], framing: str, world: World, instance: str
) -> None:
    async def dialogue(scene: Scene) -> None:
        client = await scene.client()
        await client.says(GET)
        origin = await scene.origin()
        await origin.hears(GET)
        for request in (with_content(method, framing), GET):
            await origin.says(PLAIN)
            await client.hears(PLAIN)
            await client.says(request)
            await origin.hears(request)

    play(world, instance, dialogue, cls, Options(content_methods="ACL, LOCK"))
