"""Many flows at once: complete, cheap to hold, within budgets, and without cost to another container."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from pyinterceptor import App, Container, Response, open_interceptor
from pyinterceptor.capture.gateway.namespace import inside
from pyinterceptor.errors import CaptureError
from pyinterceptor.policy.budget import Budget
from pyinterceptor.relay.relay import Options
from pyinterceptor.runtime import Files
from tests.e2e.dialogue import DEADLINE, PORT, End, Scene, namespace_of, scene
from tests.starting import started
from tests.world import ORIGIN_V4, ORIGIN_V6, World

SHOWN = Files(show=(Path(__file__).parent,))
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
                container = await started(interceptor, Passing, "one", files=SHOWN)

                async def crowd(host: str) -> None:
                    done = await container.exec([*CROWD, "upload", host, DIGEST, "150", str(size)])
                    assert (done.stdout, done.stderr) == (b"150\n", b"")

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(crowd, ORIGIN_V4)
                    nursery.start_soon(crowd, ORIGIN_V6)

    trio.run(main)


def resident() -> int:
    """Returns the resident bytes of this process."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def line(stream: trio.abc.ReceiveStream) -> bytes:
    said = b""
    while not said.endswith(b"\n") and (data := await stream.receive_some()):
        said += data
    return said


def test_5000_idle_flows_are_held_in_less_than_10_megabytes(world: World, instance: str) -> None:
    """Uses two containers, because one container's budget is 4 000 flows."""

    async def main() -> None:
        with trio.fail_after(PATIENCE):
            async with open_interceptor(App(containers=[Passing]), instance=instance) as interceptor:
                containers = [await started(interceptor, Passing, name, files=SHOWN) for name in ("one", "two")]
                # Makes everything that is made only once.
                await containers[0].exec([*CROWD, "upload", ORIGIN_V4, DIGEST, "1", "1000000"])
                before = resident()
                pipe = subprocess.PIPE
                crowds = [
                    await container.start([*CROWD, "idle", ORIGIN_V4, ECHO, "2500"], stdin=pipe, stdout=pipe)
                    for container in containers
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
                greedy = await started(interceptor, Greedy)
                modest = await started(interceptor, Other)
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


def test_19_greedy_containers_take_no_connection_from_the_twentieth(world: World, instance: str) -> None:
    """Together they ask for more flows than there are; then a 21st starts, and finds its reserve too."""

    async def main() -> None:
        options = Options(flows=400, descriptors=760, reserve=4)
        app = App(containers=[Greedy, Other])
        with trio.fail_after(PATIENCE):
            async with open_interceptor(app, instance=instance, options=options) as interceptor:
                modest = await started(interceptor, Other)
                both = "curl -sf http://my.kv/ && curl -sf http://v4.origin.test/ok"
                with ExitStack() as stack:
                    refused = []
                    for number in range(19):
                        greedy = await started(interceptor, Greedy, str(number))
                        namespace = stack.enter_context(namespace_of(greedy.pid))
                        refused.append(stack.enter_context(flood(namespace, port=7, first=b"\n", count=60)))
                    assert sum(count() for count in refused) >= 19 * 60 - 400  # there are no more flows
                    assert all(count() <= 56 for count in refused)  # each has its reserve
                    late = await started(interceptor, Other, "late")
                    for container in (modest, late):
                        done = await container.exec(["sh", "-c", f"for i in $(seq 50); do {both}; done"])
                        assert done.stdout == b"hereok" * 50
                    assert interceptor.count(Other).over_budget == 0

    trio.run(main)


def test_a_container_for_which_no_reserve_is_left_does_not_start(world: World, instance: str) -> None:
    async def main() -> None:
        with trio.fail_after(PATIENCE):
            app, options = App(containers=[Passing]), Options(flows=10, reserve=5)
            async with open_interceptor(app, instance=instance, options=options) as interceptor:
                first = await started(interceptor, Passing, "one")
                await started(interceptor, Passing, "two")
                with pytest.raises(CaptureError, match="no reserve of 5 flows is left"):
                    await started(interceptor, Passing, "three")
                await first.stop()
                await started(interceptor, Passing, "three")

    trio.run(main)


def test_a_full_table_of_flows_refuses_the_next_and_harms_none(world: World, instance: str) -> None:
    async def main() -> None:
        async with scene(world, Passing, instance, Options(flows=3)) as opened:
            talking = [await pair(opened) for _ in range(3)]
            for _ in range(5):
                await opened.is_refused()
            for client, origin in talking:
                await exchange(client, origin)
            client, origin = talking.pop()
            await client.says_no_more()
            await origin.hears_the_end()
            await origin.says_no_more()
            await client.hears_the_end()
            await has_flows(opened, 2)
            talking.append(await pair(opened))
            for client, origin in talking:
                await exchange(client, origin)
            assert opened.interceptor.count(Passing, "one").over_budget == 5

    trio.run(main)


async def pair(opened: Scene) -> tuple[End, End]:
    """Returns both ends of a flow that works."""
    client = await opened.client()
    origin = await opened.origin()
    await exchange(client, origin)
    return client, origin


async def exchange(client: End, origin: End) -> None:
    for one, other in ((client, origin), (origin, client)):
        await one.says(b"\0word")
        await other.hears(b"\0word")


async def has_flows(opened: Scene, count: int) -> None:
    while opened.interceptor.count().flows != count:
        await trio.lowlevel.checkpoint()


def test_without_a_free_descriptor_a_flow_is_refused_and_the_others_live(world: World, instance: str) -> None:
    async def main() -> None:
        async with scene(world, Passing, instance) as opened:
            client, origin = await pair(opened)
            with ExitStack() as stack:
                made = inside(opened.namespace, lambda: [socket.socket() for _ in range(9)])
                for one in made:
                    stack.enter_context(one)
                    one.settimeout(DEADLINE)
                with no_free_descriptor():
                    for one in made:
                        with suppress(ConnectionResetError):
                            one.connect((ORIGIN_V4, PORT))
                        assert is_reset(one)
                    await exchange(client, origin)
            assert opened.interceptor.count().no_resources == 9
            await pair(opened)
            await exchange(client, origin)

    trio.run(main)


@contextmanager
def no_free_descriptor() -> Iterator[None]:
    """Opens as many files as this process may have, while the block lasts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, hard))
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        with suppress(OSError):
            while True:
                stack.callback(os.close, os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
        yield


@pytest.mark.parametrize("words", [b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", b"\0no HTTP"], ids=["http", "other"])
def test_a_failed_dial_ends_its_flow_alone(words: bytes, world: World, instance: str) -> None:
    async def main() -> None:
        async with scene(world, Passing, instance, Options(dial_deadline=1.0)) as opened:
            client, origin = await pair(opened)
            lost = await opened.client("203.0.113.99", 80)  # routed to the world, where no host has it
            await lost.says(words)
            if words.startswith(b"GET"):
                assert (await lost.response())[0] == 502
            else:
                await lost.hears_a_reset()
            await exchange(client, origin)

    trio.run(main)


class Cramped(Container):
    """Everything passes, with one pipe; Python may serve one connection."""

    budget = Budget(handoffs=1, pipes=1)


@Cramped.outbound_by_host("my.kv")
async def wait(request: Any, env: Any, ctx: Any) -> Response:
    await trio.sleep_forever()
    raise AssertionError


def test_connections_above_those_that_python_may_have_are_reset(world: World, instance: str) -> None:
    ask = b"GET / HTTP/1.1\r\nHost: my.kv\r\n\r\n"

    async def main() -> None:
        async with scene(world, Cramped, instance) as opened:
            held = await opened.client(port=80)
            await held.says(ask)
            while opened.interceptor.count(Cramped, "one").handled == 0:
                await trio.lowlevel.checkpoint()
            for _ in range(2):
                client = await opened.client(port=80)
                await client.says(ask)
                await client.hears_a_reset()
            assert opened.interceptor.count(Cramped, "one").over_budget == 2
            await held.resets()
            while opened.interceptor.count(Cramped, "one").over_budget < 3:  # until its place is free again
                client = await opened.client(port=80)
                await client.says(ask)
                with trio.move_on_after(0.1) as waited:
                    await client.hears_a_reset()
                if waited.cancelled_caught:
                    break
            assert opened.interceptor.count(Cramped, "one").handled == 2

    trio.run(main)


def pipes() -> int:
    """Returns the number of descriptors of pipes in this process."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found += os.readlink(f"/proc/self/fd/{name}").startswith("pipe:")
    return found


@pytest.mark.parametrize(("cls", "most"), [(Cramped, 1), (Passing, 64)])
def test_bodies_move_in_no_more_pipes_than_their_container_may_have(
    cls: type[Container], most: int, world: World, instance: str
) -> None:
    """Four clients that read nothing hold a pipe each within the budget. Bodies without a pipe are copied."""
    size = 50_000_000

    async def main() -> None:
        async with scene(world, cls, instance) as opened:
            pairs = [await pair(opened) for _ in range(4)]
            before = pipes()
            async with trio.open_nursery() as nursery:
                for _, origin in pairs:
                    nursery.start_soon(origin.says, b"\0" * size)
                heard = [await client.reads(20_000_000) for client, _ in pairs]
                assert pipes() - before == 2 * min(most, len(pairs))
                for (client, _), first in zip(pairs, heard, strict=True):
                    assert len(first) + len(await client.reads(size - len(first))) == size

    trio.run(main)


def test_a_flow_without_a_byte_ends_at_its_idle_deadline(world: World, instance: str) -> None:
    async def main() -> None:
        async with scene(world, Passing, instance, Options(idle_deadline=1.0)) as opened:
            client, origin = await pair(opened)
            other = await pair(opened)
            began = trio.current_time()
            for _ in range(4):
                await trio.sleep(0.4)
                await exchange(*other)
            await client.hears_a_reset()
            await origin.hears_a_reset()
            assert trio.current_time() - began >= 1.0
            await exchange(*other)  # this flow wasn't idle for as long
            assert opened.interceptor.count(Passing, "one").timed_out == 1

    trio.run(main)


def test_a_flow_that_is_closed_on_one_side_ends_at_its_linger_deadline(world: World, instance: str) -> None:
    async def main() -> None:
        async with scene(world, Passing, instance, Options(linger_deadline=1.0)) as opened:
            client, origin = await pair(opened)
            other = await pair(opened)
            began = trio.current_time()
            await client.says_no_more()
            await origin.hears_the_end()
            await client.hears_a_reset()
            assert trio.current_time() - began >= 1.0
            await exchange(*other)

    trio.run(main)


def test_a_splice_moves_while_python_is_held(world: World, instance: str) -> None:
    """The GIL is held for two seconds. A download that begins in that time ends in that time."""
    script = "sleep 0.3; curl -s http://v4.origin.test/large.bin | wc -c; date +%s.%N"
    usleep = ctypes.PyDLL(None).usleep  # functions of a PyDLL keep the GIL, unlike those of a CDLL

    async def main() -> None:
        async with open_interceptor(App(containers=[Passing]), instance=instance) as interceptor:
            container = await started(interceptor, Passing)
            await container.exec("getent hosts v4.origin.test", check=True)
            script_at = script.replace("v4.origin.test", ORIGIN_V4)
            running = await container.start(["sh", "-c", script_at], stdout=subprocess.PIPE)
            usleep(2_000_000)
            free_again = time.time()
            count, ended = (await line(running.stdout) + await line(running.stdout)).split()
            await running.wait()
            await running.aclose()
            assert int(count) == 200 * 1024 * 1024
            assert float(ended) < free_again

    trio.run(main)


@contextmanager
def flood(namespace: int, *, port: int, first: bytes, count: int = 300) -> Iterator[Callable[[], int]]:
    """Opens `count` connections of a container that send `first`. Yields a function that counts the refused ones."""
    with ExitStack() as stack:
        made = inside(namespace, lambda: [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(count)])
        for one in made:
            stack.enter_context(one)
            one.settimeout(DEADLINE)
            with suppress(ConnectionError):
                one.connect((ORIGIN_V4, port))
                one.sendall(first)
        for one in made:
            one.setblocking(False)
        yield lambda: sum(is_reset(one) for one in made)


def is_reset(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except (BlockingIOError, TimeoutError):
        return False
    except OSError:
        return True
