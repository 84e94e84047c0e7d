"""TLS that is refused, with real clients: each says that access was denied."""

from __future__ import annotations

import trio

from pyinterceptor import Container
from tests.e2e.clients import CLIENTS, running_container
from tests.world import ORIGIN_V4, ORIGIN_V6, World

SAYING = {
    "curl": ["curl", "-sS", "-m", "20"],
    "urllib": CLIENTS["urllib"],
    "node": ["node", "-e", "fetch(process.argv[1]).catch((error) => { console.error(error.cause); process.exit(1) })"],
    "java": CLIENTS["java"],
}


class Closed(Container):
    enable_internet = False


class Open(Container):
    pass


def test_every_client_says_that_access_was_denied(world: World, instance: str) -> None:
    async def main() -> dict[str, str]:
        async with running_container(Closed, instance, []) as container:
            said = {}
            for name, command in SAYING.items():
                for address in (ORIGIN_V4, f"[{ORIGIN_V6}]"):
                    finished = await container.exec([*command, f"https://{address}/ok"])
                    assert finished.returncode != 0
                    said[f"{name} {address}"] = finished.stderr.decode().lower().replace("_", " ")
            return said

    before = world.counts().syns
    for name, error in trio.run(main).items():
        assert "access denied" in error, (name, error)
    assert world.counts().syns == before


def test_a_local_address_is_refused_the_same_way_and_another_server_answers(world: World, instance: str) -> None:
    async def main() -> None:
        async with running_container(Open, instance, []) as container:
            refused = await container.exec([*SAYING["curl"], "https://10.9.9.9/"])
            assert "access denied" in refused.stderr.decode().lower()
            passed = await container.exec([*SAYING["curl"], "-k", f"https://{ORIGIN_V4}/ok"], check=True)
            assert passed.stdout

    trio.run(main)
