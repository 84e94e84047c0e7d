"""A host that gains or loses its IPv6 route while containers run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import trio

from pyinterceptor import Container, Response
from tests.e2e.clients import output, running_container
from tests.world import ORIGIN_V4, ORIGIN_V6, World
from tests.world.world import run

ROUTE = ["default", "via", "2001:db8:ffff::1", "dev", "world0"]
ASK = "import socket; print({info[4][0] for info in socket.getaddrinfo('origin.test', 80)})"


class Served(Container):
    """An IPv6 address without a server is handled, in the internet and without it."""


@Served.outbound_by_host("2001:db8:77::7", "2001:db8:78::/48")
async def answer(request: Any, env: Any, ctx: Any) -> Response:
    return Response(f"handled {request.host}\n")


class Spliced(Container):
    """No rules, and the internet."""


@contextmanager
def without_v6() -> Iterator[None]:
    run(["ip", "-6", "route", "del", *ROUTE])
    try:
        yield
    finally:
        run(["ip", "-6", "route", "add", *ROUTE])


async def has_both(container: Any) -> bool:
    """Asserts that addresses, names and connections agree. Returns True if there is IPv6."""
    found = await output(container, ["/usr/bin/python3", "-c", ASK])
    assert ORIGIN_V4 in found
    dialled = await container.exec(["curl", "-sg", "-m", "20", "-w", "%{errormsg}", f"http://[{ORIGIN_V6}]/who"])
    reached = dialled.stdout.decode()
    if ORIGIN_V6 in found:
        assert reached.split()[1] == ORIGIN_V6
        return True
    assert "Failed to connect" in reached
    assert dialled.returncode == 7  # curl(1): refused, not timed out
    return False


def test_containers_follow_the_host_in_losing_and_gaining_ipv6(world: World, instance: str) -> None:
    async def main() -> None:
        async with running_container(Spliced, instance, []) as container:
            assert await has_both(container)
            with without_v6():
                assert not await has_both(container)
            assert await has_both(container)

    trio.run(main)


def test_a_host_that_gains_ipv6_later_gives_it_to_running_containers(world: World, instance: str) -> None:
    """So it is at boot, if the interceptor starts before the router's advertisement."""

    async def main() -> None:
        async with AsyncExitStack() as stack:
            with without_v6():
                container = await stack.enter_async_context(running_container(Spliced, instance, []))
                assert not await has_both(container)
            assert await has_both(container)

    trio.run(main)


def test_an_ipv6_address_with_a_handler_is_served_where_the_host_has_no_ipv6(world: World, instance: str) -> None:
    async def main() -> None:
        with without_v6():
            async with running_container(Served, instance, []) as container:
                url = ["curl", "-sSg", "-m", "20"]
                assert await output(container, [*url, "http://[2001:db8:77::7]/"]) == "handled 2001:db8:77::7\n"
                assert await output(container, [*url, "http://[2001:db8:78:1::8]/"]) == "handled 2001:db8:78:1::8\n"
                for outside in ("2001:db8:77::8", "2001:db8:79::8"):
                    other = await container.exec([*url, f"http://[{outside}]/"])
                    assert other.returncode == 7  # curl(1): refused at once, so that a client tries IPv4

    trio.run(main)
