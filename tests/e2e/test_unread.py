"""Bytes that nobody reads: one container's connections hold a bounded amount of memory."""

from __future__ import annotations

import gc
import os
import resource
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
import trio

from pyinterceptor import App, Container, open_interceptor
from pyinterceptor.policy.budget import Budget
from pyinterceptor.runtime import Files
from tests.world import ORIGIN_V4, ORIGIN_V6, World
from tests.world.network import wait_for_port

PYTHON = "/usr/bin/python3"
STALL = str(Path(__file__).with_name("stall.py"))
SHOWN = Files(show=(Path(__file__).parent,))
POURING, DEAF = 9200, 9201  # ports of servers that send without end, and that read nothing
LIMIT = 256 * 1024 * 1024  # bytes
SO_MEMINFO = 55  # asm-generic/socket.h
PATIENCE = 240.0  # seconds


class Passing(Container):
    """Everything passes."""


class Roomy(Container):
    """Everything passes, and its connections may hold much."""

    budget = Budget(buffers=2**31 - 1)


@pytest.fixture
def stalled(world: World) -> Iterator[None]:
    """Servers whose connections make no progress."""
    with _serving(world, POURING, 1), _serving(world, DEAF, 0):
        yield


@contextmanager
def _serving(world: World, port: int, size: int) -> Iterator[None]:
    with world.popen([sys.executable, STALL, "serve", "::", str(port), "0", str(size)]) as server:
        try:
            wait_for_port(ORIGIN_V4, port)
            yield
        finally:
            server.terminate()


def held() -> int:
    """Returns the bytes that this process holds: its memory, and its sockets' in the kernel."""
    gc.collect()
    held = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the directory's own descriptor
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with closing(socket.socket(fileno=os.dup(int(name)))) as copy:
                held += unread_and_unsent(copy)
    return held


def unread_and_unsent(sock: socket.socket) -> int:
    """Returns the bytes in a TCP socket's queues, with their overhead; 0 for other sockets."""
    if sock.type != socket.SOCK_STREAM or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return 0
    received, *_, sent, _, _, _ = struct.unpack("9I", sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))
    return received + sent


async def grown(cls: type[Container], instance: str, task: list[str], host: str) -> int:
    """Returns the bytes that are held for a container's stalled connections. A neighbour downloads beside them."""
    app = App(containers=[cls])
    with trio.fail_after(PATIENCE):
        async with open_interceptor(app, instance=instance) as interceptor:
            stalling = await interceptor.get_container(cls, "stalling", files=SHOWN)
            neighbour = await interceptor.get_container(cls, "neighbour")
            before = held()
            pipe = subprocess.PIPE
            process = await stalling.start([PYTHON, STALL, *task], stdin=pipe, stdout=pipe)
            try:
                assert await process.stdout.receive_some() == b"ready\n"
                url = f"http://{f'[{host}]' if ':' in host else host}/large.bin"
                done = await neighbour.exec(["sh", "-c", f"curl -sf '{url}' | wc -c"])
                assert int(done.stdout) == 200 * 1024 * 1024
                return held() - before
            finally:
                await process.stdin.aclose()
                await process.wait()
                await process.aclose()


@pytest.mark.parametrize("host", [ORIGIN_V4, ORIGIN_V6])
@pytest.mark.parametrize("task", ["download", "upload"])
@pytest.mark.usefixtures("stalled")
def test_600_stalled_connections_hold_at_most_256_mib(task: str, host: str, instance: str) -> None:
    port = POURING if task == "download" else DEAF
    assert trio.run(grown, Passing, instance, [task, host, str(port), "600", "1"], host) < LIMIT


@pytest.mark.usefixtures("stalled")
def test_a_budget_of_many_bytes_lets_connections_hold_more(instance: str) -> None:
    task = ["download", ORIGIN_V4, str(POURING), "100", "1000000"]
    assert trio.run(grown, Roomy, instance, task, ORIGIN_V4) > LIMIT
