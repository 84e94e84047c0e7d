"""Local ports: a container that opens and closes connections in a loop leaves some to others and the host."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from pyinterceptor import App, Container, open_interceptor
from pyinterceptor.runtime import Files
from tests.starting import started
from tests.world import ORIGIN_V4, ORIGIN_V6, World

RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
FIRST, COUNT = 40_000, 200
CROWD = ["/usr/bin/python3", str(Path(__file__).with_name("crowd.py"))]
SHOWN = Files(show=(Path(__file__).parent,))
ECHO = 7
PATIENCE = 120.0  # seconds


class Passing(Container):
    """Everything passes."""


@pytest.fixture
def few_ports(world: World) -> Iterator[None]:
    """Gives the host's network namespace a small range of local ports."""
    before = RANGE.read_text()
    RANGE.write_text(f"{FIRST} {FIRST + COUNT - 1}")
    yield
    RANGE.write_text(before)


def echoed(host: str) -> bytes:
    """Connects from the host itself, and returns the echo of a byte."""
    with socket.create_connection((host, ECHO), timeout=PATIENCE) as connection:
        connection.sendall(b"\0")
        connection.shutdown(socket.SHUT_WR)
        return connection.recv(2)


@pytest.mark.parametrize("host", [ORIGIN_V4, ORIGIN_V6])
@pytest.mark.usefixtures("few_ports")
def test_a_container_in_a_loop_leaves_ports_to_others(host: str, instance: str) -> None:
    """Each connection leaves a port in TIME_WAIT for a minute. Without shares the host would have none left, as at the
    end of the test, where the host makes them itself."""

    async def main() -> None:
        with trio.fail_after(PATIENCE):
            async with open_interceptor(App(containers=[Passing]), instance=instance) as interceptor:
                looping = await started(interceptor, Passing, "looping", files=SHOWN)
                neighbour = await started(interceptor, Passing, "neighbour", files=SHOWN)
                loop = [*CROWD, "loop", host, str(ECHO)]
                done = await looping.exec([*loop, "1000"])
                assert (done.stdout, done.stderr) == (b"1000\n", b"")
                for _ in range(20):
                    assert echoed(host) == b"\0"
                done = await neighbour.exec([*loop, "20"])
                assert (done.stdout, done.stderr) == (b"20\n", b"")

    trio.run(main)
    with pytest.raises(OSError, match="Cannot assign"):
        [echoed(host) for _ in range(COUNT)]
