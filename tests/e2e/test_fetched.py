"""curl gets odd responses through a handler that fetches them, wherever curl itself reads them from the server."""

from __future__ import annotations

import logging
import secrets
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from pyinterceptor import Container, Response, fetch
from tests.e2e.clients import output, running_container
from tests.world import ORIGIN_V4, ORIGIN_V6, World
from tests.world.image import curl_image, remove_image
from tests.world.network import wait_for_port
from tests.world.odd import DOUBTFUL, FRAMED
from tests.world.servers import end

ROOT = Path(__file__).parents[2]
PORT = 8083
BASES = [f"http://{ORIGIN_V4}:{PORT}", f"http://[{ORIGIN_V6}]:{PORT}"]
IMAGE = f"pyinterceptor-test-{secrets.token_hex(4)}"
# Arguments: cases, separated by commas, and base URLs. Prints a line for each: its name, body, status and exit code.
CURL = """
cases=$1
shift
for base; do
  echo "$cases" | tr , '\\n' | while read -r name; do
    printf '%s | ' "$name"
    curl -sg -m 20 -w ' %{http_code} %{exitcode}\\n' "$base/$(echo "$name" | sed 's/ /%20/g')" || true
  done
done
"""
READ = " | ok 200 0"
# Responses that no client may read, and the reasons in the log.
UNREADABLE = {
    "control bytes": "a NUL byte in the response's headers",
    "another protocol": "not an HTTP/1.1 response: it begins with b'HELLO there",
    "lengths that differ": "the response's length is in doubt: '2, 3'",
}
READABLE = [case for case in [*FRAMED, *DOUBTFUL, "ICY"] if case not in UNREADABLE]
WAITING = "identity"  # beside the server, curl waits for more


class Passing(Container):
    """A handler fetches every request."""


@Passing.outbound
async def pass_on(request: Any, env: Any, ctx: Any) -> Response:
    return await fetch(request)


class InImage(Passing):
    image = IMAGE


@pytest.fixture(scope="module", autouse=True)
def odd(world: World) -> Iterator[None]:
    """The server of odd responses."""
    server = world.popen([sys.executable, "-m", "tests.world.odd", str(PORT)], cwd=ROOT)
    try:
        wait_for_port(ORIGIN_V4, PORT)
        yield
    finally:
        end(server)


@pytest.fixture(params=[Passing, InImage])
def cls(request: pytest.FixtureRequest) -> Iterator[type[Container]]:
    if request.param is InImage:
        curl_image(IMAGE)
    yield request.param
    if request.param is InImage:
        remove_image(IMAGE)


def printed(cls: type[Container], instance: str, argv: list[str], **settings: Any) -> list[str]:
    """Returns the lines that a command in a container prints."""

    async def main() -> str:
        async with running_container(cls, instance, [], **settings) as container:
            return await output(container, argv)

    return trio.run(main).splitlines()


def asking(cases: Collection[str]) -> list[str]:
    return ["sh", "-c", CURL, "sh", ",".join(cases), *BASES]


def test_curl_gets_every_response_that_it_reads_beside_the_server(
    cls: type[Container], world: World, instance: str
) -> None:
    beside = world.run(asking([case for case in READABLE if case != WAITING])).splitlines()
    through = printed(cls, instance, asking(READABLE))
    assert {line for line in beside if line.endswith(READ)} < set(through)
    others = {line for line in through if not line.endswith(READ)}
    assert others == {"one field of 300 KiB |  200 27"}  # a limit of curl's, also beside the server
    assert others < set(beside)


def test_the_log_says_why_a_response_is_not_read(
    cls: type[Container], instance: str, caplog: pytest.LogCaptureFixture
) -> None:
    lines = printed(cls, instance, asking(UNREADABLE))
    assert lines.count(" 502 0") == len(UNREADABLE) * len(BASES)
    logged = "\n".join(record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    for reason in UNREADABLE.values():
        assert logged.count(reason) == len(BASES)


def test_the_largest_head_of_a_fetched_response_can_be_set(instance: str, caplog: pytest.LogCaptureFixture) -> None:
    asked = asking(["200 fields", "100 KiB"])
    assert printed(Passing, instance, asked) == ["200 fields | ok 200 0", "100 KiB | ok 200 0"] * len(BASES)
    [*lines] = printed(Passing, f"{instance}-small", asked, fetch_head=2_000)
    assert [line for line in lines if line.endswith(READ)] == ["200 fields | ok 200 0"] * len(BASES)
    logged = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(logged) == len(BASES)
    for line in logged:
        assert line.endswith("response headers larger than open_interceptor(fetch_head=2000)")


def test_curl_gets_every_status(cls: type[Container], instance: str) -> None:
    statuses = (200, 299, 404, 599, 600, 799, 999)
    urls = [f"{base}/status/{status}" for base in BASES for status in statuses]
    lines = printed(cls, instance, ["curl", "-sSg", "-m", "20", "-w", " %{http_code}\n", *urls])
    assert lines == [f"ok {status}" for status in statuses] * len(BASES)


def test_curl_gets_trailers(cls: type[Container], instance: str) -> None:
    lines = printed(cls, instance, ["curl", "-sSg", "-m", "20", "--raw", *[f"{base}/trailers" for base in BASES]])
    assert lines == ["2", "ok", "0", "X-Checksum: abc", ""] * len(BASES)


def test_curl_upgrades_with_a_body(cls: type[Container], instance: str) -> None:
    """As docker exec does. Curl takes the bytes of the other protocol for a body."""
    options = ["-sSg", "-m", "20", "-H", "Connection: Upgrade", "-H", "Upgrade: tcp", "--data-binary", "ls\nexit\n"]
    urls = [f"{base}/upgrade" for base in BASES]
    lines = printed(cls, instance, ["curl", *options, "-w", "%{http_code}\n", *urls])
    assert lines == ["ls", "exit", "101"] * len(BASES)
