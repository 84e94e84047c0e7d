"""A container at its limits of memory, processes, processor time or /tmp: a neighbour goes on working.

The limits are small, so that a bomb never endangers the machine.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from pyinterceptor.errors import RuntimeFailure
from pyinterceptor.policy.limits import Limits
from pyinterceptor.runtime import Runtime, execute, open_netns_container, open_podman_container
from pyinterceptor.runtime.cgroups import PREFIX, enforceable, find_places
from tests.world.image import busybox_image, remove_image

IMAGE = "pyinterceptor-limits"
MEMORY, PIDS, TMP = 64 << 20, 64, 4 << 20
SMALL = Limits(memory=MEMORY, pids=PIDS, tmp=TMP)
TIME = 240.0  # seconds; nothing here takes nearly as long
# Shells, so that the image of busybox can run them.
MEMORY_BOMB = "x=0123456789abcdef; while :; do x=$x$x; done"
FORK_BOMB = "for i in $(seq 200); do sleep 1000 & done; echo all"
FULL_TMP = "head -c 16000000 /dev/zero >/tmp/full; stat -c %s /tmp/full"


@pytest.fixture(scope="module")
def podman_image() -> Iterator[str]:
    busybox_image(IMAGE)
    yield IMAGE
    remove_image(IMAGE)


@pytest.fixture(params=["embedded", "podman"])
def image(request: pytest.FixtureRequest) -> str | None:
    """The image of the container; None in the embedded runtime."""
    return None if request.param == "embedded" else str(request.getfixturevalue("podman_image"))


async def no_network(netns_fd: int) -> None:
    """Does nothing: the container stays unattached."""


@asynccontextmanager
async def opened(image: str | None, **options: Any) -> AsyncIterator[Runtime]:
    options = {"attach": no_network, "limits": SMALL, **options}
    async with AsyncExitStack() as stack:
        if image is None:
            yield await stack.enter_async_context(open_netns_container(name="limited", user="nobody", **options))
        else:
            yield await stack.enter_async_context(open_podman_container(name="limited", image=image, **options))


async def works(container: Runtime) -> None:
    """Forks, uses 16 MiB of memory and writes 2 MiB to /tmp."""
    use = "x=$(head -c 16000000 /dev/zero | tr '\\0' x); echo ${#x}; head -c 2000000 /dev/zero >/tmp/it; rm /tmp/it"
    assert (await execute(container, ["sh", "-c", use], check=True)).text == "16000000\n"


def our_cgroups() -> list[Path]:
    return [path for place in find_places().values() for path in place.directory.glob(f"{PREFIX}*")]


def in_time(scenario: Any, *arguments: Any) -> None:
    async def main() -> None:
        with trio.fail_after(TIME):
            await scenario(*arguments)

    trio.run(main)


def test_a_memory_bomb_ends_itself_alone(image: str | None) -> None:
    async def scenario() -> None:
        before = sorted(Path.cwd().iterdir())
        async with opened(image) as hostile, opened(image) as neighbour:
            bombed = await execute(hostile, ["sh", "-c", MEMORY_BOMB])
            assert bombed.returncode in (1, 2, 128 + signal.SIGKILL), bombed
            await works(neighbour)
            await works(hostile)
        assert sorted(Path.cwd().iterdir()) == before

    in_time(scenario)


def test_a_fork_bomb_takes_its_own_processes_alone(image: str | None) -> None:
    async def scenario() -> None:
        async with opened(image) as hostile, opened(image) as neighbour:
            bombed = await execute(hostile, ["sh", "-c", FORK_BOMB])
            assert bombed.text != "all\n"
            await works(neighbour)
            enough = "for i in $(seq 32); do sleep 0 & done; wait; echo all"
            assert (await execute(neighbour, ["sh", "-c", enough], check=True)).text == "all\n"

    in_time(scenario)


def test_a_full_tmp_is_its_own_alone(image: str | None) -> None:
    async def scenario() -> None:
        async with opened(image) as hostile, opened(image) as neighbour:
            filled = await execute(hostile, ["sh", "-c", FULL_TMP])
            assert filled.text == f"{TMP}\n"
            assert filled.stderr.startswith(b"head: ")
            await works(neighbour)

    in_time(scenario)


def test_processor_time_is_limited(image: str | None) -> None:
    """A loop of four seconds gets less than 0.8 at a tenth of a processor, and more without a limit."""
    loop = "timeout 4 sh -c 'while :; do :; done'; times"

    async def used(limits: Limits) -> float:
        async with opened(image, limits=limits) as container:
            text = (await execute(container, ["sh", "-c", loop])).text
        minutes, _, seconds = text.split("\n")[1].split()[0].partition("m")
        return int(minutes) * 60 + float(seconds.rstrip("s"))

    async def scenario() -> None:
        assert await used(Limits(cpu=0.1)) < 0.8
        assert await used(Limits()) > 0.8

    in_time(scenario)


def test_a_command_of_any_user_is_limited_and_its_cgroups_are_removed() -> None:
    async def scenario() -> None:
        before = our_cgroups()
        for user in ("root", "nobody"):
            async with open_netns_container(name="one", attach=no_network, limits=SMALL, user=user) as container:
                running = await container.start(["sleep", "1000"])
                mine = Path(f"/proc/{running.pid}/cgroup").read_text()
                assert mine.count(f"/{PREFIX}") == len(set(find_places().values()))
                made = [path for path in our_cgroups() if path not in before]
                assert made
                assert all(str(running.pid) in (path / "cgroup.procs").read_text() for path in made)
            assert not any(path.exists() for path in made)

    in_time(scenario)


OWNER = """
import sys, trio
from pyinterceptor.policy.limits import Limits
from pyinterceptor.runtime.cgroups import open_cgroup
async def main():
    async with open_cgroup(Limits()) as join:
        join()
        print("made", flush=True)
        await trio.sleep_forever()
trio.run(main)
"""


def test_cgroups_of_a_killed_owner_are_removed_at_the_next_start_and_no_others() -> None:
    async def scenario() -> None:
        async with trio.open_nursery() as nursery:
            starting = partial(trio.run_process, stdout=subprocess.PIPE, check=False)
            owner = await nursery.start(starting, [sys.executable, "-c", OWNER])
            assert await owner.stdout.receive_some(1) == b"m"  # of "made"
            joined = Path(f"/proc/{owner.pid}/cgroup").read_text()
            left = {path for path in our_cgroups() if path.name in joined}
            assert left
            async with opened(None):
                assert left <= set(our_cgroups())
            owner.kill()  # another suite on this machine may now remove its cgroups as well
        async with opened(None):
            assert not left & set(our_cgroups())

    in_time(scenario)


def test_without_cgroups_a_limit_that_was_set_is_an_error_and_a_default_a_warning_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for limits, name in ((Limits(memory=MEMORY), "memory"), (Limits(pids=PIDS), "pids"), (Limits(cpu=1), "cpu")):
        with pytest.raises(RuntimeFailure, match=rf"^limit {name} to \d+: no cgroup can be made; mount /sys/fs/cgroup"):
            enforceable(limits, {})
    assert not caplog.records
    for _ in range(2):
        assert enforceable(Limits(tmp=TMP), {}) == Limits(tmp=TMP)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    caplog.clear()
    found = enforceable(Limits(), find_places())
    assert found.memory is not None
    assert found.memory < os.sysconf("SC_PHYS_PAGES") * resource.getpagesize()
    assert found.pids == 2048
