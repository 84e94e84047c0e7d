"""Root of the embedded runtime is a uid of its own outside, and its files are root's all the same."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from pyinterceptor.runtime import Files, NetnsRuntime, execute, open_netns_container, uids

T = TypeVar("T")
PYTHON = "/usr/bin/python3"
TIME = 60.0  # seconds; nothing here takes nearly as long
USERS = pytest.mark.parametrize("user", ["root", "nobody"])


async def attach_nothing(netns_fd: int) -> None:
    pass


def in_container(scenario: Callable[[NetnsRuntime], Awaitable[T]], files: Files, user: str = "root") -> T:
    async def main() -> T:
        with trio.fail_after(TIME):
            async with open_netns_container(name="a", attach=attach_nothing, user=user, files=files) as container:
                return await scenario(container)

    return trio.run(main)


def uid_outside(container: NetnsRuntime, pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().split("Uid:")[1].split()[0])


async def uid_of_a_process(container: NetnsRuntime) -> int:
    running = await container.start("sleep 1000")
    return uid_outside(container, running.pid)


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    (tmp_path / "work/before").write_text("before\n")
    (tmp_path / "work/before").chmod(0o600)
    return tmp_path / "work"


def test_two_containers_have_different_uids_and_neither_is_that_of_root() -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            found = []
            for name in ("a", "b"):
                container = open_netns_container(name=name, attach=attach_nothing, user="root")
                found.append(await uid_of_a_process(await stack.enter_async_context(container)))
        assert len({*found, 0, *range(65536)}) == 65536 + 2

    trio.run(main)


def test_another_user_keeps_its_uid() -> None:
    assert in_container(uid_of_a_process, Files(), "nobody") == 65534


def test_root_owns_the_files_of_root_inside_and_outside(workdir: Path) -> None:
    show = "id -u; cat before; echo after > after; ls -n after before / | awk '{print $3, $4}' | sort -u"

    async def scenario(container: NetnsRuntime) -> None:
        finished = await execute(container, ["sh", "-c", f"{show}; touch ~/own /tmp/own /dev/shm/own"], check=True)
        assert finished.text.splitlines()[:2] == ["0", "before"]
        assert "0 0" in finished.text.splitlines()

    in_container(scenario, Files(workdir=workdir))
    assert (workdir / "after").read_text() == "after\n"
    assert (workdir / "after").stat().st_uid == (workdir / "before").stat().st_uid == 0


def test_it_does_not_own_the_files_of_others(workdir: Path) -> None:
    os.chown(workdir / "before", 1234, 1234)

    async def scenario(container: NetnsRuntime) -> None:
        assert "1234 1234" in (await execute(container, ["stat", "-c", "%u %g", "before"], check=True)).text
        assert (await execute(container, ["cat", "before"])).returncode != 0

    in_container(scenario, Files(workdir=workdir))


def test_files_below_another_mount_are_translated_too(workdir: Path) -> None:
    """The working directory has a file system of its own, with another one inside."""
    for place in (workdir, workdir / "inner"):
        place.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
    try:

        async def scenario(container: NetnsRuntime) -> None:
            await execute(container, ["touch", "outer", "inner/inner"], check=True)

        in_container(scenario, Files(workdir=workdir))
        assert [(workdir / name).stat().st_uid for name in ("outer", "inner/inner")] == [0, 0]
    finally:
        subprocess.run(["umount", "--recursive", workdir], check=True)


LIMITED = """
import ctypes, sys
libc, count = ctypes.CDLL(None), 0
while libc.inotify_init() >= 0:
    count += 1
print(count, flush=True)
sys.stdin.read()
"""


def test_what_the_kernel_counts_by_uid_is_not_shared() -> None:
    """A container's inotify instances, all that its uid may have, leave those of our root."""
    count = subprocess.PIPE

    async def scenario(container: NetnsRuntime) -> None:
        running = await container.start([PYTHON, "-c", LIMITED], stdin=count, stdout=count)
        assert running.stdout is not None
        most = int(Path("/proc/sys/fs/inotify/max_user_instances").read_text())
        assert int(await running.stdout.receive_some(100)) == most
        await trio.run_process([PYTHON, "-c", "import ctypes; assert ctypes.CDLL(None).inotify_init() >= 0"])

    in_container(scenario, Files())


@USERS
def test_a_command_can_open_its_pipes_again(user: str) -> None:
    async def scenario(container: NetnsRuntime) -> None:
        command = "cat /dev/stdin; echo out > /dev/stdout; echo error > /dev/stderr"
        finished = await execute(container, ["sh", "-c", command], input=b"in\n")
        assert (finished.stdout, finished.stderr) == (b"in\nout\n", b"error\n")

    in_container(scenario, Files(), user)


@pytest.mark.parametrize("lacking", ["namespace", "file system"])
def test_without_a_range_it_runs_as_our_root_and_says_so(
    lacking: str, workdir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> int:
        raise OSError

    uids._warn.cache_clear()
    monkeypatch.setattr(uids, "new_user_namespace" if lacking == "namespace" else "translate_owners", refuse)
    with caplog.at_level(logging.WARNING):
        assert in_container(uid_of_a_process, Files(workdir=workdir)) == 0
    assert "Root in the container is root outside" in caplog.text
