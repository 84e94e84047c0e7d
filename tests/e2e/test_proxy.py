"""curl asks a proxy that the workload may reach for hosts with and without a rule, in absolute form and by CONNECT."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from pyinterceptor import Container, Response
from tests.e2e.clients import running_container
from tests.world import ORIGIN_V4, OTHER_V4, OTHER_V6, World

PORT = 3128
PROXY = Path(__file__).parents[1] / "world" / "proxy.py"
FREE = f"free.test {ORIGIN_V4} {ORIGIN_V4} GET\n"


class Guarded(Container):
    """ruled.test has a handler, everything else passes."""


@Guarded.outbound_by_host("ruled.test")
async def answer(request: Any, env: Any, ctx: Any) -> Response:
    return Response(f"handled {request.url.path}\n")


@contextmanager
def proxy(world: World) -> Iterator[subprocess.Popen[bytes]]:
    """Yields a proxy in the world, which knows both hosts. It prints what it is asked for."""
    names = [f"{host}={ORIGIN_V4}" for host in ("free.test", "ruled.test")]
    with world.popen([sys.executable, str(PROXY), str(PORT), *names], stdout=subprocess.PIPE) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == b"ready\n"
            yield running
        finally:
            running.terminate()


async def curl(container: Any, address: str, *urls: str) -> tuple[int, str]:
    """Returns curl's exit status and output."""
    finished = await container.exec(["curl", "-skg", "-m", "20", "-x", f"http://{address}:{PORT}", *urls])
    return finished.returncode, finished.stdout.decode()


@pytest.mark.parametrize("address", [OTHER_V4, f"[{OTHER_V6}]"], ids=["v4", "v6"])
def test_a_proxy_is_asked_for_hosts_without_a_rule_alone(address: str, world: World, instance: str) -> None:
    free, ruled = ("http://free.test/who", "https://free.test/who"), ("http://ruled.test/a", "https://ruled.test/b")

    async def main() -> None:
        async with running_container(Guarded, instance, []) as container:
            while (await curl(container, address, free[1]))[0]:  # noqa: ASYNC110
                await trio.sleep(0.05)  # the rule's name isn't resolved yet
            for url in free:
                assert await curl(container, address, url) == (0, FREE)
            assert await curl(container, address, ruled[0]) == (0, "handled /a\n")
            assert await curl(container, address, free[0], ruled[0], free[0]) == (0, f"{FREE}handled /a\n{FREE}")
            assert await curl(container, address, ruled[1]) == (56, "")  # curl(1): CONNECT was refused
            assert await curl(container, address, free[1]) == (0, FREE)

    with proxy(world) as running:
        trio.run(main)
        running.terminate()
        asked, _ = running.communicate()
    assert b"CONNECT free.test:443\n" in asked
    assert b"GET free.test:80\n" in asked
    assert b"ruled" not in asked
