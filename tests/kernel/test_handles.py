"""The library's containers in a real gateway: `get_container`, `exec`, `start`, `stop`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from pyinterceptor import App, Container, PolicyError, RuntimeFailure, open_interceptor
from tests.starting import started


class Sandbox(Container):
    enable_internet = False


class Another(Container):
    image = "localhost/pyinterceptor-nonesuch"


class Stranger(Container):
    """A container class that the app doesn't have."""


def with_interceptor(instance: str, scenario: Callable[[Any], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(60):
            async with open_interceptor(App(containers=[Sandbox, Another]), instance=instance) as interceptor:
                await scenario(interceptor)

    trio.run(main)


async def network_of(container: Any) -> str:
    """Returns the container's network namespace, which identifies it."""
    return str((await container.exec("readlink /proc/self/ns/net")).text.strip())


def processes_in(network: str) -> list[str]:
    found = []
    for link in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            if os.readlink(link) == network:
                found.append(link.parts[2])
        except OSError:
            continue
    return found


def test_a_name_is_one_container_however_often_and_at_once_it_is_asked_for(instance: str) -> None:
    async def scenario(interceptor: Any) -> None:
        containers: list[Any] = []

        async def get() -> None:
            containers.append(await started(interceptor, Sandbox, "one"))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(get)
        await get()
        assert len(containers) == 4
        assert all(container is containers[0] for container in containers)
        two = await started(interceptor, Sandbox, "two")
        assert two is not containers[0]
        assert await network_of(two) != await network_of(containers[0])

    with_interceptor(instance, scenario)


def test_exec_takes_a_list_or_a_string_that_is_split_as_a_shell_would(instance: str) -> None:
    async def scenario(interceptor: Any) -> None:
        container = interceptor.get_container(Sandbox, "one")
        assert container.has_ended
        assert (await container.exec(["echo", "a  b", "$HOME"])).stdout == b"a  b $HOME\n"
        assert (await container.exec("echo 'a  b' c\\ d $HOME")).stdout == b"a  b c d $HOME\n"
        finished = await container.exec("sh -c 'cat; echo err >&2; exit 3'", input=b"in")
        assert (finished.returncode, finished.stdout, finished.stderr) == (3, b"in", b"err\n")

    with_interceptor(instance, scenario)


def test_stop_returns_when_the_container_is_gone_and_the_next_one_is_fresh(instance: str) -> None:
    async def scenario(interceptor: Any) -> None:
        container = await started(interceptor, Sandbox, "one")
        network = await network_of(container)
        held = os.open(f"/proc/{container.pid}/ns/net", os.O_RDONLY)  # or the next container could get its number
        running = await container.start(["sh", "-c", "echo up; exec sleep 1000"], stdout=subprocess.PIPE)
        assert await running.stdout.receive_some(3) == b"up\n"
        assert len(processes_in(network)) >= 3
        async with trio.open_nursery() as nursery:  # twice at the same time, and for another container meanwhile
            nursery.start_soon(container.stop)
            nursery.start_soon(container.stop)
            await trio.testing.wait_all_tasks_blocked()
            fresh = await started(interceptor, Sandbox, "one")
            assert processes_in(network) == []
            new_network = await network_of(fresh)
        assert await running.wait() == 128 + 9
        await running.aclose()
        os.close(held)
        assert fresh is container
        assert new_network != network
        assert await network_of(container) == new_network
        await container.stop()
        assert container.has_ended
        with pytest.raises(RuntimeFailure, match="Sandbox 'one' does not run"):
            _ = container.pid
        assert (await container.exec("echo again")).text == "again\n"  # exec starts it
        assert not container.has_ended

    with_interceptor(instance, scenario)


def test_a_container_whose_first_process_has_ended_says_so_and_the_next_one_is_fresh(instance: str) -> None:
    async def scenario(interceptor: Any) -> None:
        container = await started(interceptor, Sandbox, "one", user="root")
        network = await network_of(container)
        assert b"not permitted" in (await container.exec("kill -9 1")).stderr
        assert (await container.exec("echo still here")).text == "still here\n"
        (first,) = [pid for pid in processes_in(network) if Path(f"/proc/{pid}/comm").read_text() == "cat\n"]
        os.kill(int(first), 9)
        while processes_in(network) or not container.has_ended:
            await trio.lowlevel.checkpoint()
        fresh = await started(interceptor, Sandbox, "one")
        assert (await fresh.exec("echo again")).text == "again\n"
        assert await network_of(fresh) != network
        await container.stop()

    with_interceptor(instance, scenario)


def test_a_container_that_cannot_start_is_that_callers_error_and_no_other_ones(instance: str) -> None:
    async def scenario(interceptor: Any) -> None:
        container = await started(interceptor, Sandbox, "one")
        with pytest.raises(RuntimeFailure, match="no such user"):
            await started(interceptor, Sandbox, "two", user="nonesuch")
        with pytest.raises(RuntimeFailure, match="is not on this machine and can't be pulled"):
            await started(interceptor, Another, "one")
        with pytest.raises(PolicyError, match="Stranger is not a container of this app; it has: Sandbox, Another"):
            await started(interceptor, Stranger, "one")
        assert (await container.exec("echo still here")).text == "still here\n"
        two = await started(interceptor, Sandbox, "two", user="nobody")
        assert (await two.exec("id -un")).text == "nobody\n"

    with_interceptor(instance, scenario)


def test_leaving_the_interceptor_ends_what_runs_inside(instance: str) -> None:
    networks: list[str] = []

    async def scenario(interceptor: Any) -> None:
        for name in ("one", "two"):
            container = await started(interceptor, Sandbox, name)
            networks.append(await network_of(container))
            await container.start("sleep 1000")
            assert len(processes_in(networks[-1])) > 2

    with_interceptor(instance, scenario)
    assert [processes_in(network) for network in networks] == [[], []]
