"""Names as a program of musl resolves them: it waits 5 s where no answer comes, or one with the code REFUSED."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import trio

from pyinterceptor import App, Budget, Container, Response, open_interceptor
from pyinterceptor.runtime import Files
from tests.e2e.clients import TIME, output
from tests.starting import started
from tests.world import ORIGIN_V4, ORIGIN_V6, World

SOURCE = Path(__file__).with_name("resolve.c")
WAIT = 5000.0  # milliseconds: musl's between two attempts
CROWD = 200  # names at once


class Ruled(Container):
    """Some names are handled, no other name exists."""

    enable_internet = False


class Few(Container):
    """The same names are handled, the rest passes, one question at a time."""

    budget = Budget(queries=1)


async def answer(request: Any, env: Any, ctx: Any) -> Response:
    return Response("handled\n")


for cls in (Ruled, Few):
    cls.outbound_by_host("my.kv", "*.glob.kv")(answer)


@pytest.fixture(scope="module")
def resolve(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("musl") / "resolve"
    program.parent.chmod(0o755)
    subprocess.run(["musl-gcc", "-static", "-O1", "-o", program, SOURCE], check=True)
    return program


def answers(cls: type[Container], instance: str, resolve: Path, *names: str) -> dict[str, tuple[str, float]]:
    """Returns each name's first address or error, and the milliseconds until it came."""

    async def main() -> str:
        with trio.fail_after(TIME):
            async with open_interceptor(App(containers=[cls]), instance=instance) as interceptor:
                container = await started(interceptor, cls, "one", files=Files(show=(resolve.parent,)))
                return await output(container, [str(resolve), *names])

    lines = [line.split("\t") for line in trio.run(main).splitlines()]
    return {name: (found, float(spent)) for name, found, spent in lines}


def test_handled_names_have_addresses_and_others_are_denied_at_once(
    resolve: Path, world: World, instance: str
) -> None:
    found = answers(Ruled, instance, resolve, "my.kv", "a.glob.kv", "origin.test", "gone.test")
    assert {name: text for name, (text, _) in found.items() if text.startswith(("198.18.1.", "fd70:"))}.keys() == {
        "my.kv",
        "a.glob.kv",
    }
    assert found["origin.test"][0] == found["gone.test"][0] == "Name does not resolve"
    assert max(spent for _, spent in found.values()) < WAIT


def test_a_passed_name_has_its_own_addresses(resolve: Path, world: World, instance: str) -> None:
    found = answers(Few, instance, resolve, "origin.test")
    assert found["origin.test"][0] in (ORIGIN_V4, ORIGIN_V6)
    assert found["origin.test"][1] < WAIT


def test_no_name_of_a_crowd_waits_for_another_attempt(resolve: Path, world: World, instance: str) -> None:
    """Handled names have no limit. Passed ones are asked one at a time, and those above that get an answer too.

    It is truncated: this musl, older than 1.2.4, takes it for an answer without addresses, a newer one asks over TCP.
    """
    handled = [f"{number}.glob.kv" for number in range(CROWD)]
    found = answers(Few, instance, resolve, *handled)
    assert all(text.startswith(("198.18.", "fd70:")) for text, _ in found.values())
    assert len(found) == CROWD
    assert max(spent for _, spent in found.values()) < WAIT

    passed = [f"crowd{number}.test" for number in range(CROWD)]
    for name in passed:
        world.name(name, ORIGIN_V4)
    found = answers(Few, instance, resolve, *passed)
    assert len(found) == CROWD
    assert max(spent for _, spent in found.values()) < WAIT
    errors = {"Name does not resolve", "Name has no usable address"}
    assert {ORIGIN_V4} <= {text for text, _ in found.values()} <= {ORIGIN_V4, *errors}
