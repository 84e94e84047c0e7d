"""The interceptor in a thread of its own: with blocking calls, and under asyncio."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
from pathlib import Path
from typing import Any

import pytest
import trio

from pyinterceptor import (
    App,
    AsyncioContainer,
    AsyncioInterceptor,
    AsyncioRunning,
    BlockingContainer,
    BlockingInterceptor,
    BlockingRunning,
    Container,
    ContainerHandle,
    Interceptor,
    PolicyError,
    RequestRecord,
    Response,
    Running,
    RuntimeFailure,
    open_in_thread,
)
from pyinterceptor.app.at_run_time import RulesAtRunTime
from tests.world import World

PATIENCE = 60.0  # seconds until a test counts as stuck
CURL = "curl -s -m 20 http://my.kv/word"
RUNTIMES = ("is_over", "stop_discarding")  # methods of Running that the runtimes call
INTERNAL = {"set_ipv6", "started", "change", "start_soon", "renew_now"}  # methods that the interceptor's parts call
HANGS = "curl -s http://my.kv/hang"


class Sandbox(Container):
    pass


@Sandbox.outbound_by_host("my.kv")
async def answer(request: Any, env: Any, ctx: Any) -> Response:
    return Response(f"{ctx.container_name} asked for {request.url.path}")


class Methodical(Container):
    """Has a method of its own, and a named handler."""

    enable_internet = False

    async def double(self, value: Any) -> Any:
        if value == -1:
            raise ValueError("negative")
        return value * 2


@Methodical.outbound_handlers
async def word(request: Any, env: Any, ctx: Any) -> Response:
    return Response(ctx.params["word"])


METHODICAL = App(containers=[Methodical], bindings={"SANDBOX": Methodical, "WORD": "text"})


async def answer_later(request: Any, env: Any, ctx: Any) -> Response:
    return Response("replaced")


@pytest.fixture(autouse=True)
def rules() -> None:
    Sandbox.outbound_by_host = {"my.kv": answer}


def processes(command: str) -> list[str]:
    """Returns the processes with these words in their command line."""
    lines = [path.read_bytes().replace(b"\0", b" ").decode() for path in Path("/proc").glob("[0-9]*/cmdline")]
    return [line for line in lines if command in line]


def test_a_program_without_an_event_loop_uses_blocking_calls(world: World, instance: str) -> None:
    with open_in_thread(App(containers=[Sandbox]), instance=instance) as interceptor:
        with interceptor.records(RequestRecord) as records:
            container = interceptor.get_container(Sandbox, "one")
            assert container.exec(CURL, check=True).text == "one asked for /word"
            assert next(iter(records)).url == "http://my.kv/word"
        running = container.start("cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdin.send_all(b"through a pipe")
        running.stdin.close()
        assert running.stdout.receive_some(100) == b"through a pipe"
        assert running.wait() == running.returncode == 0
        Sandbox.outbound_by_host = {"my.kv": answer_later}
        interceptor.replace_policy(Sandbox)
        assert container.exec(CURL, check=True).text == "replaced"
        assert interceptor.count(Sandbox, "one").handled == 2
        with pytest.raises(PolicyError):
            interceptor.get_container(App)  # type: ignore[arg-type]
        with pytest.raises(RuntimeFailure, match="exit code 3"):
            container.exec(["sh", "-c", "exit 3"], check=True)
        container.stop()
        assert container.has_ended
    with pytest.raises(RuntimeFailure, match="the interceptor has ended"):
        interceptor.count()


def test_a_program_under_asyncio_awaits_the_same_calls(world: World, instance: str) -> None:
    async def main() -> None:
        async with open_in_thread(App(containers=[Sandbox]), instance=instance) as interceptor:
            names = [f"number{number}" for number in range(5)]
            containers = await asyncio.gather(*(interceptor.get_container(Sandbox, name) for name in names))
            async with interceptor.records(RequestRecord) as records:
                done = await asyncio.gather(*(container.exec(CURL, check=True) for container in containers))
                assert [one.text for one in done] == [f"{name} asked for /word" for name in names]
                assert {(await anext(records)).container.name for _ in names} == set(names)
            running = await containers[0].start("cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert running.stdin is not None
            assert running.stdout is not None
            await running.stdin.send_all(b"through a pipe")
            await running.stdin.close()
            assert await running.stdout.receive_some(100) == b"through a pipe"
            assert await running.wait() == 0
            Sandbox.outbound_by_host = {"my.kv": answer_later}
            await interceptor.replace_policy(Sandbox)
            assert (await containers[0].exec(CURL, check=True)).text == "replaced"
            assert (await interceptor.count()).handled == 6
            await containers[0].stop(grace=0)
            assert containers[0].has_ended

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


def test_both_faces_call_the_classs_methods_and_change_its_rules(world: World, instance: str) -> None:
    async def main() -> None:
        async with open_in_thread(METHODICAL, instance=instance) as interceptor:
            container = await interceptor.env.SANDBOX.get_by_name("one")
            assert await interceptor.env.SANDBOX.id_from_name("one") is not None
            assert await container.double([1]) == [1, 1]
            with pytest.raises(ValueError, match="negative"):
                await container.double(-1)
            await container.set_outbound_by_host("my.kv", "word", {"word": "set"})
            assert (await container.exec(CURL, check=True)).text == "set"

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
    with open_in_thread(METHODICAL, instance=instance) as interceptor:
        container = interceptor.env.SANDBOX.get_by_name("two")
        with pytest.raises(AttributeError, match=r"env.WORD: only handlers can use it"):
            _ = interceptor.env.WORD
        assert container.double([1]) == [1, 1]
        container.set_outbound_handler("word", {"word": "all"})
        assert container.exec(CURL, check=True).text == "all"
        with pytest.raises(PolicyError, match="unknown handler 'nonesuch'; outbound_handlers has: word"):
            container.set_outbound_handler("nonesuch")
        with pytest.raises(AttributeError, match="Methodical has no method 'triple'; its methods: double"):
            container.triple()
        assert container.exec(CURL, check=True).text == "all"


def test_a_command_that_asyncio_cancels_is_killed(world: World, instance: str) -> None:
    async def main() -> None:
        loop, begun = asyncio.get_running_loop(), asyncio.Event()

        async def never(request: Any, env: Any, ctx: Any) -> Response:
            loop.call_soon_threadsafe(begun.set)
            await trio.sleep_forever()
            raise AssertionError

        Sandbox.outbound_by_host = {"my.kv": never}
        async with open_in_thread(App(containers=[Sandbox]), instance=instance) as interceptor:
            container = await interceptor.get_container(Sandbox, "one")
            executing = asyncio.create_task(container.exec(HANGS))
            await begun.wait()
            assert len(processes(HANGS)) == 1
            executing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await executing
            assert processes(HANGS) == []
            assert (await container.exec("echo lives")).text == "lives\n"

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


def test_the_errors_of_the_opening_are_raised_where_the_block_begins() -> None:
    async def main() -> None:
        async with open_in_thread(App(containers=[Sandbox]), nameservers=["no address"]):
            raise AssertionError("the block has begun")

    opening = open_in_thread(App(containers=[Sandbox]), nameservers=["no address"])
    with pytest.raises(Exception, match="no address") as blocking, opening:
        raise AssertionError("the block has begun")
    with pytest.raises(type(blocking.value), match="no address"):
        asyncio.run(main())


@pytest.mark.parametrize(
    ("faces", "original", "missing"),
    [
        ((BlockingInterceptor, AsyncioInterceptor), Interceptor, INTERNAL),
        ((BlockingContainer, AsyncioContainer), ContainerHandle, {"run_inherited"}),  # needs the main thread
        ((BlockingContainer, AsyncioContainer), RulesAtRunTime, set()),
        ((BlockingRunning, AsyncioRunning), Running, {"has_ended", "signal_group", "aclose", *RUNTIMES}),
    ],
)
def test_both_faces_have_the_methods_of_the_original(
    faces: tuple[type, type], original: type, missing: set[str]
) -> None:
    for face in faces:
        assert public(original) - public(face) == missing
        for name in public(original) & public(face):
            if inspect.isfunction(vars(original)[name]):
                assert parameters(getattr(face, name)) == parameters(getattr(original, name))


def parameters(method: Any) -> list[inspect.Parameter]:
    return list(inspect.signature(method).parameters.values())


def public(cls: type) -> set[str]:
    return {name for name in vars(cls) if not name.startswith("_")}
