"""Shared parts of the benchmarks: a client in a namespace outside the containers, wrk, processes on one core."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.world import World
from tests.world.network import new_namespace
from tests.world.world import run

SERVER_CORE, CLIENT_CORE = "0", "1"


@dataclass(frozen=True, slots=True)
class Client:
    """A namespace whose traffic to the world is forwarded by the host's kernel alone."""

    namespace: int

    def enter(self, argv: Sequence[str]) -> list[str]:
        """Returns a command that runs `argv` in the namespace. It must inherit the descriptor `namespace`."""
        return ["nsenter", f"--net=/proc/self/fd/{self.namespace}", *argv]

    def run(self, argv: Sequence[str]) -> str:
        return run(self.enter(argv), pass_fds=[self.namespace])


@contextmanager
def forwarded_client(world: World) -> Iterator[Client]:
    """Creates a client at 198.51.100.130, which the host routes without NAT."""
    client = Client(new_namespace())
    peer = f"/proc/self/fd/{client.namespace}"
    try:
        add = ["ip", "link", "add", "client0", "type", "veth", "peer", "name", "eth0", "netns", peer]
        run(add, pass_fds=[client.namespace])
        run(["ip", "address", "add", "198.51.100.129/30", "dev", "client0"])
        run(["ip", "link", "set", "client0", "up"])
        for command in (
            "ip link set lo up",
            "ip address add 198.51.100.130/30 dev eth0",
            "ip link set eth0 up",
            "ip route add default via 198.51.100.129",
        ):
            client.run(command.split())
        world.run(["ip", "route", "add", "198.51.100.128/30", "via", "192.0.2.2"])
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")  # in the namespace that plays the host
        yield client
    finally:
        os.close(client.namespace)


def wrk(url: str, *, seconds: int, close: bool = False) -> list[str]:
    """Returns a command of wrk with 64 connections from one thread, on the client's core."""
    header = ["-H", "Connection: close"] if close else []
    return ["taskset", "-c", CLIENT_CORE, "wrk", "-t1", "-c64", f"-d{seconds}s", *header, url]


def rate(output: str) -> float:
    """Returns the requests per second that wrk printed. Raises AssertionError if requests failed."""
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    assert failed is None, output
    found = re.search(r"Requests/sec:\s+([\d.]+)", output)
    assert found is not None, output
    return float(found[1])


def on_one_core(argv: Sequence[str]) -> list[str]:
    return ["taskset", "-c", SERVER_CORE, *argv]


def stay_on_one_core() -> None:
    """Moves all threads of this process to the server's core."""
    for task in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(task), {int(SERVER_CORE)})


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(10)
