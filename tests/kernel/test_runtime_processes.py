"""The processes of a command in the embedded runtime, its ports and its host name."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from pyinterceptor.runtime import NetnsRuntime, execute, open_netns_container

T = TypeVar("T")
PYTHON = "/usr/bin/python3"
USERS = pytest.mark.parametrize("user", ["root", "nobody"])
TIME = 60.0  # seconds; nothing here takes nearly as long


async def loopback_only(netns_fd: int) -> None:
    command = ["nsenter", f"--net=/proc/self/fd/{netns_fd}", "ip", "link", "set", "lo", "up"]
    await trio.to_thread.run_sync(lambda: subprocess.run(command, pass_fds=(netns_fd,), check=True))


def in_container(scenario: Callable[[NetnsRuntime], Awaitable[T]], user: str = "nobody") -> T:
    async def main() -> T:
        with trio.fail_after(TIME):
            async with open_netns_container(name="a container", attach=loopback_only, user=user) as container:
                return await scenario(container)

    return trio.run(main)


SERVER = """
import pathlib, time
while not pathlib.Path("/tmp/go").exists():
    time.sleep(0.01)
for _ in range(64):
    print("x" * 65536, flush=True)
pathlib.Path("/tmp/written").touch()
time.sleep(1000)
"""


def test_a_server_outlives_its_command_and_its_later_output_is_discarded() -> None:
    """It writes 4 MiB: more than a pipe holds, after the command's end."""

    async def scenario(container: NetnsRuntime) -> None:
        shell = ["sh", "-c", '"$@" & echo started', "sh", PYTHON, "-c", SERVER]
        finished = await execute(container, shell)
        assert (finished.returncode, finished.stdout, finished.stderr) == (0, b"started\n", b"")
        waiting = "touch /tmp/go; until [ -e /tmp/written ]; do sleep 0.01; done; ps ax"
        assert PYTHON in (await execute(container, ["sh", "-c", waiting])).text
        await container.stop()

    in_container(scenario)


def test_the_output_of_a_command_is_whole_although_nothing_waits_for_its_children() -> None:
    async def scenario(container: NetnsRuntime) -> None:
        for _ in range(20):
            finished = await execute(container, ["sh", "-c", "sleep 1000 & head -c 300000 /dev/zero; echo end >&2"])
            assert (len(finished.stdout), finished.stderr) == (300000, b"end\n")

    in_container(scenario)


def test_a_cancelled_command_ends_with_all_of_its_processes_and_no_other() -> None:
    async def scenario(container: NetnsRuntime) -> None:
        await execute(container, ["sh", "-c", "sleep 1001 >/dev/null 2>&1 &"])  # the control
        forking = (
            "setsid sleep 1002 & (setsid env -i sleep 1003 & ) ; sh -c 'trap \"\" TERM INT HUP; sleep 1004; true' &"
            " touch /tmp/forked; sleep 1005"
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(execute, container, ["sh", "-c", forking])
            listed = ""
            while not all(f"sleep {number}" in listed for number in range(1001, 1006)):
                listed = (await execute(container, "ps ax")).text
            nursery.cancel_scope.cancel()
        listed = (await execute(container, "ps ax")).text
        assert [number for number in range(1001, 1006) if f"sleep {number}" in listed] == [1001]

    in_container(scenario)


BIND = "import socket; a = socket.create_server(('', 80)); b = socket.create_server(('::', 443), family=10)"


@USERS
def test_low_ports_can_be_bound(user: str) -> None:
    async def scenario(container: NetnsRuntime) -> None:
        await execute(container, [PYTHON, "-c", BIND], check=True)

    in_container(scenario, user)
    setting = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()
    assert setting != "0\n"  # the control: it is the container's own setting


NAMES = """
import socket
name = socket.gethostname()
assert name == "a-container", name
print(socket.gethostbyname(name), socket.gethostbyname("localhost"))
server = socket.create_server((name, 80))
print(socket.create_connection((name, 80)).getpeername()[0])
"""
JAVA = """
class Name {
    public static void main(String[] arguments) throws Exception {
        System.out.println(java.net.InetAddress.getLocalHost());
    }
}
"""


def test_its_own_host_name_resolves_for_python_and_java() -> None:
    async def scenario(container: NetnsRuntime) -> None:
        python = await execute(container, [PYTHON, "-c", NAMES], check=True)
        assert python.text == "127.0.1.1 127.0.0.1\n127.0.1.1\n"
        script = ["sh", "-c", "cat >/tmp/Name.java && java /tmp/Name.java"]
        java = await execute(container, script, input=JAVA.encode(), check=True)
        assert java.text == "a-container/127.0.1.1\n"
        assert (await execute(container, ["sh", "-c", "echo x >>/etc/hosts"])).returncode != 0

    in_container(scenario)


# Newer versions of bwrap make their mounts with openat2(2), which is refused to commands.
NEWER = """#!/usr/bin/python3
import ctypes, os, sys
OPENAT2, AT_FDCWD = 437, -100
libc = ctypes.CDLL(None, use_errno=True)
how = (ctypes.c_uint64 * 3)(os.O_RDONLY, 0, 0)
if libc.syscall(OPENAT2, AT_FDCWD, b"/", how, ctypes.sizeof(how)) < 0:
    sys.exit(f"open /: {os.strerror(ctypes.get_errno())}")
os.execv(BWRAP, ["bwrap", *sys.argv[1:]])
"""


def test_a_newer_bwrap_makes_its_mounts_and_process_1_is_under_the_filter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bwrap").write_text(NEWER.replace("BWRAP", repr(shutil.which("bwrap"))))
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    async def scenario(container: NetnsRuntime) -> None:
        (child,) = Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text().split()
        first = Path(f"/proc/{child}/status").read_text()
        assert "Seccomp:\t2\n" in first
        assert "NoNewPrivs:\t1\n" in first
        calling = NEWER.replace("BWRAP", "''").partition("os.execv")[0]
        refused = await execute(container, [PYTHON, "-c", calling])  # the control
        assert refused.stderr == b"open /: Function not implemented\n"

    in_container(scenario)
