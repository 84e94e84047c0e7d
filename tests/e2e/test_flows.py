"""Many flows at once: whole, cheap to hold, within budgets, and none at another's cost."""

from __future__ import annotations

import gc
import resource
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from pyinterceptor import App, Container, Response, open_interceptor
from pyinterceptor.capture.namespace import inside
from pyinterceptor.relay.relay import Budget
from tests.e2e.dialogue import DEADLINE, namespace_of
from tests.world import ORIGIN_V4, ORIGIN_V6, World

CROWD = ["/usr/bin/python3", str(Path(__file__).with_name("crowd.py"))]
DIGEST, ECHO = "9", "7"
PATIENCE = 120.0  # seconds


class Passing(Container):
    """Everything passes."""


class Greedy(Container):
    """Everything passes, but not much at once."""

    budget = Budget(flows=200, openings=50, handoffs=20, pipes=4)


class Other(Container):
    """Another container's class, with a handler."""


@Other.outbound_by_host("my.kv")
async def answer(request: Any, env: Any, ctx: Any) -> Response:
    return Response("here")


@pytest.mark.parametrize("size", [2_048, 300_000, 5_000_000])
def test_300_uploads_at_once_arrive_whole_and_are_answered_after_half_close(
    size: int, world: World, instance: str
) -> None:
    async def main() -> None:
        with trio.fail_after(PATIENCE):
            async with open_interceptor(App(containers=[Passing]), instance=instance) as interceptor:
                box = await interceptor.get_container(Passing, "box")

                async def crowd(host: str) -> None:
                    done = await box.exec([*CROWD, "upload", host, DIGEST, "150", str(size)])
                    assert (done.stdout, done.stderr) == (b"150\n", b"")

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(crowd, ORIGIN_V4)
                    nursery.start_soon(crowd, ORIGIN_V6)

    trio.run(main)


def resident() -> int:
    """Bytes of our memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def line(stream: trio.abc.ReceiveStream) -> bytes:
    said = b""
    while not said.endswith(b"\n") and (data := await stream.receive_some()):
        said += data
    return said


def test_5000_idle_flows_are_held_in_less_than_10_megabytes(world: World, instance: str) -> None:
    """In two containers: a container's own budget is 4 000 flows."""

    async def main() -> None:
        with trio.fail_after(PATIENCE):
            async with open_interceptor(App(containers=[Passing]), instance=instance) as interceptor:
                boxes = [await interceptor.get_container(Passing, name) for name in ("one", "two")]
                await boxes[0].exec([*CROWD, "upload", ORIGIN_V4, DIGEST, "1", "1000000"])  # what is made once is there
                before = resident()
                pipe = subprocess.PIPE
                crowds = [
                    await box.start([*CROWD, "idle", ORIGIN_V4, ECHO, "2500"], stdin=pipe, stdout=pipe) for box in boxes
                ]
                for crowd in crowds:
                    assert await line(crowd.stdout) == b"ready\n"
                assert interceptor.count().flows == 5000
                grown = resident() - before
                assert grown < 10_000_000
                for crowd in crowds:
                    await crowd.stdin.aclose()
                    assert await line(crowd.stdout) == b"2500\n"
                    await crowd.wait()
                    await crowd.aclose()

    trio.run(main)


def test_a_container_at_its_limits_costs_another_nothing(world: World, instance: str) -> None:
    async def main() -> None:
        app = App(containers=[Greedy, Other])
        with trio.fail_after(PATIENCE):
            async with open_interceptor(app, instance=instance) as interceptor:
                greedy = await interceptor.get_container(Greedy)
                modest = await interceptor.get_container(Other)
                with namespace_of(greedy.pid) as namespace, flood(namespace, port=80, first=b"GE") as refused:
                    assert refused() >= 50  # undecided openings
                    with flood(namespace, port=7, first=b"\n") as more:
                        assert more() >= 50  # flows
                        both = "curl -sf http://my.kv/ && curl -sf http://v4.origin.test/ok"
                        done = await modest.exec(["sh", "-c", f"for i in $(seq 100); do {both}; done"])
                        assert done.stdout == b"hereok" * 100
                assert interceptor.count(Other).over_budget == 0
                assert interceptor.count(Greedy).over_budget >= 100

    trio.run(main)


@contextmanager
def flood(namespace: int, *, port: int, first: bytes) -> Iterator[Callable[[], int]]:
    """300 connections of a container that say `first` and are held; gives a function that counts the refused ones."""
    with ExitStack() as stack:
        made = inside(namespace, lambda: [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(300)])
        for one in made:
            stack.enter_context(one)
            one.settimeout(DEADLINE)
            with suppress(ConnectionError):
                one.connect((ORIGIN_V4, port))
                one.sendall(first)
        yield lambda: sum(is_reset(one) for one in made)


def is_reset(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
