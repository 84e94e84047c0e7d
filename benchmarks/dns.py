"""Measures the cost of a DNS answer: processor time of our whole process for each, beside dnsmasq's.

A client in a container, and one in a namespace that the host forwards, ask for A records, with 32 questions in flight
and one at a time; both servers ask the same nameserver. "passed": each name is new; "cached": there are 100 names.
For a name that is new we ask two questions, since the relay also dials its other family.
"""

from __future__ import annotations

import multiprocessing
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from benchmarks.bench import Client, end, forwarded_client
from benchmarks.results import debian, publish, table
from pyinterceptor import App, Container, open_interceptor
from tests.world import World

ASK = Path(__file__).with_name("ask.py")
HOST = "198.51.100.129"  # of dnsmasq; the host's end of the forwarded client's link
ANY = "203.0.113.53"  # in the container, every address is a resolver
WINDOWS = {"32 at once": 32, "one at a time": 1}
COUNT = 10_000  # answers, in each round
NAMES = 100  # that are cached
ROUNDS = 3
Cost = Callable[[], float]  # seconds of processor time so far


class Passing(Container):
    """A container without rules."""


def nameserver(sock: socket.socket) -> None:
    """Answers every A question, and denies every other."""
    while True:
        query, peer = sock.recvfrom(4096)
        end = query.index(b"\0", 12) + 5
        head, asked = query[:2] + b"\x81\x80\0\1", query[12:end]
        if query[end - 4 : end - 2] == b"\0\1":
            record = b"\xc0\x0c\0\1\0\1\0\0\x0e\x10\0\4\xcb\0\x71\7"
            sock.sendto(head + b"\0\1\0\0\0\0" + asked + record, peer)
        else:
            sock.sendto(head + bytes(6) + asked, peer)


@contextmanager
def open_nameserver() -> Iterator[int]:
    """Returns its port on the loopback address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        server = multiprocessing.Process(target=nameserver, args=(sock,), daemon=True)
        server.start()
        try:
            yield sock.getsockname()[1]
        finally:
            server.kill()
            server.join()


@contextmanager
def dnsmasq(upstream: int) -> Iterator[Cost]:
    argv = ["dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null", "--user=root"]
    argv += ["--cache-size=150000", f"--server=127.0.0.1#{upstream}", "--bind-interfaces", "--pid-file="]
    process = subprocess.Popen([*argv, f"--listen-address={HOST}"])

    def cost() -> float:
        return int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[0]) / 1e9

    try:
        yield cost
    finally:
        end(process)


async def measure(asking: Any, cost: Cost, window: int, first: int, names: int) -> float:
    """Returns the microseconds for each answer."""
    before, line = cost(), b""
    await asking.stdin.send_all(f"{window} {COUNT} {first} {names}\n".encode())
    while not line.endswith(b"\n"):
        line += await asking.stdout.receive_some()
    spent, answered = cost() - before, int(line)
    if answered != COUNT:
        sys.exit(f"dns: {COUNT - answered} of {COUNT} answers are lost")
    return spent / answered * 1e6


async def benchmark(client: Client, dnsmasq: Cost, port: int) -> dict[str, dict[str, float]]:
    """Returns the costs by server and kind: medians of interleaved rounds."""
    rounds: dict[str, dict[str, list[float]]] = {"dnsmasq": {}, "pyinterceptor": {}}
    argv = ["/usr/bin/python3", "-c", ASK.read_text()]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    async with open_interceptor(
        App(containers=[Passing]), instance="bench", nameservers=[f"127.0.0.1:{port}"]
    ) as interceptor:
        box = await interceptor.get_container(Passing, "one")
        here = await box.start([*argv, ANY], **pipes)
        there = await trio.lowlevel.open_process(client.enter([*argv, HOST]), **pipes, pass_fds=[client.namespace])
        sides: dict[str, tuple[Any, Cost]] = {"dnsmasq": (there, dnsmasq), "pyinterceptor": (here, time.process_time)}
        first = 0
        for _ in range(ROUNDS):
            for title, window in WINDOWS.items():
                for server, side in sides.items():
                    for kind, names in (("passed", COUNT), ("cached", NAMES)):
                        if kind == "cached":
                            await measure(*side, window, first, names)
                        taken = await measure(*side, window, first, names)
                        rounds[server].setdefault(f"{kind}, {title}", []).append(taken)
                        first += names
        there.kill()
        await there.wait()
        here.terminate()
        await here.aclose()
    return {
        server: {kind: statistics.median(taken) for kind, taken in kinds.items()} for server, kinds in rounds.items()
    }


def rows(measured: dict[str, dict[str, float]]) -> Sequence[Sequence[str]]:
    return [[server, *(f"{taken:.1f}" for taken in kinds.values())] for server, kinds in measured.items()]


def main() -> None:
    with World() as world, forwarded_client(world) as client, open_nameserver() as port, dnsmasq(port) as cost:
        measured = trio.run(benchmark, client, cost, port)
    head = ["µs for each answer", *measured["dnsmasq"]]
    publish("A DNS answer", table(head, rows(measured)), {"dnsmasq": debian("dnsmasq-base")})


if __name__ == "__main__":
    main()
