"""Real clients go on after odd responses on connections that are kept, as they do beside the server."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from pyinterceptor import Container, Response
from pyinterceptor.relay.relay import Options
from tests.e2e.clients import output, running_container
from tests.world import ORIGIN_V4, ORIGIN_V6, World
from tests.world.image import PYTHON, client_image, remove_image
from tests.world.network import wait_for_port
from tests.world.odd import DOUBTFUL, FRAMED
from tests.world.servers import end

HERE = Path(__file__).parent
PORT = 8082
BASES = [f"http://{ORIGIN_V4}:{PORT}", f"http://[{ORIGIN_V6}]:{PORT}"]
CURL = ["sh", "-c", (HERE / "kept.sh").read_text(), "sh"]
KEPT = (HERE / "kept.py").read_text()
CLIENTS = {
    "curl": CURL,
    "http.client": [PYTHON, "-c", KEPT, "http.client"],
    "urllib3": [sys.executable, "-c", KEPT, "urllib3"],
    "undici": ["node", str(HERE / "kept.js"), "undici"],
    "node": ["node", str(HERE / "kept.js"), "http"],
    "java": ["java", "-XX:TieredStopAtLevel=1", str(HERE / "Kept.java")],
}
# Cases in which a client waits for more of the response, also beside the server.
WAITING = {"curl": {"identity", "lengths that differ"}, "java": {"malformed chunks"}}
# A case in which it is a matter of time whether the client sees all of the response before its next request.
RACING = {"an answer that nobody asked for"}
TIMED_OUT = ("Timeout", "timed out", " 28", "ETIMEDOUT")  # 28: of curl
IMAGE = f"pyinterceptor-test-{secrets.token_hex(4)}"


class Open(Container):
    """No rules."""


class Ruled(Container):
    """my.kv has a handler, so that requests are followed; everything else passes."""


@Ruled.outbound_by_host("my.kv")
async def answer(request: Any, env: Any, ctx: Any) -> Response:
    return Response("handled")


class OpenInImage(Open):
    image = IMAGE


class RuledInImage(Ruled):
    image = IMAGE


@pytest.fixture(scope="module", autouse=True)
def odd(world: World) -> Iterator[None]:
    """The server of odd responses."""
    server = world.popen([sys.executable, "-m", "tests.world.odd", str(PORT)], cwd=HERE.parents[1])
    try:
        wait_for_port(ORIGIN_V4, PORT)
        yield
    finally:
        end(server)


@pytest.fixture(scope="module")
def image() -> Iterator[None]:
    client_image(IMAGE)
    yield
    remove_image(IMAGE)


def outcomes(cls: type[Container], instance: str, argv: list[str]) -> list[str]:
    """Returns the lines that a client prints in a container."""

    async def main() -> list[str]:
        async with running_container(cls, instance, [], Options(close_deadline=0.5)) as container:
            return (await output(container, argv)).splitlines()

    return trio.run(main)


def asking(client: str, cases: list[str]) -> list[str]:
    """Returns the command of a client for these cases, each of both families."""
    return [*CLIENTS[client], ",".join(cases), *BASES]


def check_framed(client: str, cls: type[Container], world: World, instance: str) -> None:
    cases = [case for case in FRAMED if case not in WAITING.get(client, ())]
    beside = world.run(asking(client, cases)).splitlines()
    assert len(beside) == len(cases) * len(BASES)
    assert any("request 2" in line for line in beside)
    assert outcomes(cls, instance, asking(client, cases)) == beside


def check_doubtful(client: str, cls: type[Container], instance: str) -> None:
    lines = outcomes(cls, instance, asking(client, [*DOUBTFUL]))
    assert len(lines) == len(DOUBTFUL) * len(BASES)
    for line in lines:
        assert not any(words in line for words in TIMED_OUT), line
        assert "request 2" not in line, line


def check_opaque(client: str, cls: type[Container], world: World, instance: str) -> None:
    cases = [case for case in DOUBTFUL if case not in WAITING.get(client, set()) | RACING]
    beside = world.run(asking(client, cases)).splitlines()
    assert len(beside) == len(cases) * len(BASES)
    assert outcomes(cls, instance, asking(client, cases)) == beside


@pytest.mark.parametrize("client", CLIENTS)
def test_clients_go_on_after_responses_whose_length_is_in_no_doubt(client: str, world: World, instance: str) -> None:
    check_framed(client, Ruled, world, instance)


@pytest.mark.parametrize("client", CLIENTS)
def test_no_client_hangs_after_a_response_whose_end_is_in_doubt(client: str, instance: str) -> None:
    """The connection is closed instead, and the next request has another."""
    check_doubtful(client, Ruled, instance)


@pytest.mark.parametrize("client", CLIENTS)
def test_without_rules_clients_go_on_after_doubtful_responses_as_beside_the_server(
    client: str, world: World, instance: str
) -> None:
    check_opaque(client, Open, world, instance)


@pytest.mark.usefixtures("image")
@pytest.mark.parametrize("client", ["curl", "http.client"])
def test_clients_in_an_image_go_on_after_odd_responses(client: str, world: World, instance: str) -> None:
    check_framed(client, RuledInImage, world, instance)
    check_doubtful(client, RuledInImage, instance)
    check_opaque(client, OpenInImage, world, instance)
