"""What does a DNS answer cost? Processor time of this process for each answer, beside dnsmasq's where it is installed.

`.venv/bin/python -m benchmarks.dns`: a client on loopback keeps WINDOW queries in flight. "passed": each name is new;
"cached": there are 100 names. Needs no root.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import trio

from pyinterceptor.dns.names import SYNTHETIC, Names
from pyinterceptor.dns.resolver import Lookups, Resolver
from pyinterceptor.dns.server import serve_udp
from pyinterceptor.dns.servers import Servers
from pyinterceptor.dns.upstream import open_upstream
from pyinterceptor.policy.budget import Budget
from pyinterceptor.policy.rules import Rules
from pyinterceptor.policy.table import compile, decide_name

COUNT = 5000  # answers
WINDOW = 32
TICK = os.sysconf("SC_CLK_TCK")


def question(number: int, name: int) -> bytes:
    return (number & 0xFFFF).to_bytes(2, "big") + b"\1\0\0\1" + bytes(6) + b"\7n%06d\4test\0\0\1\0\1" % name


def nameserver(sock: socket.socket) -> None:
    """Answers every A question, and denies every other."""
    while True:
        query, peer = sock.recvfrom(4096)
        end = query.index(b"\0", 12) + 5
        head, asked = query[:2] + b"\x81\x80\0\1", query[12:end]
        if query[end - 4 : end - 2] == b"\0\1":
            record = b"\xc0\x0c\0\1\0\1\0\0\1\0\0\4\xcb\0\x71\7"
            sock.sendto(head + b"\0\1\0\0\0\0" + asked + record, peer)
        else:
            sock.sendto(head + bytes(6) + asked, peer)


def ask(port: int, first: int, names: int, done: Any) -> None:
    """Reports whether all answers came."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", port))
        client.settimeout(5)
        sent = got = 0
        try:
            while got < COUNT:
                while sent - got < WINDOW and sent < COUNT:
                    client.send(question(sent, first + sent % names))
                    sent += 1
                client.recv(4096)
                got += 1
        except TimeoutError:
            pass
        done.put(got)


def spent(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


async def measure(name: str, port: int, cost: Callable[[], float]) -> None:
    for kind, first, names in (("passed", 0, COUNT), ("cached", 500_000, 100), ("cached", 500_000, 100)):
        done: Any = multiprocessing.Queue()
        client = multiprocessing.Process(target=ask, args=(port, first, names, done))
        client.start()
        before, began = cost(), time.monotonic()
        while done.empty():  # noqa: ASYNC110  # the queue belongs to another process
            await trio.sleep(0.05)
        took = time.monotonic() - began
        got = done.get()
        each = (cost() - before) / got * 1e6
        print(f"{name:16} {kind:8} {each:7.1f} us {got / took:9.0f}/s {COUNT - got} lost", flush=True)
        client.join()


async def ours(upstream_port: int) -> None:
    table = compile(Rules({}, None, True), 1)
    relay: Any = SimpleNamespace(publish_addresses=lambda *_: True)
    observer: Any = SimpleNamespace(answered=lambda *_: None, over_budget=lambda *_: None)
    lookups = Lookups(1, lambda host: decide_name(table, host), Budget(), Names(SYNTHETIC), observer)
    client: Any = SimpleNamespace(lookups=lookups)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO
        sock.setsockopt(socket.IPPROTO_IPV6, 49, 1)  # IPV6_RECVPKTINFO
        sock.bind(("::", 0))
        async with open_upstream(Servers([f"127.0.0.1:{upstream_port}"])) as upstream, trio.open_nursery() as nursery:
            resolver = Resolver(upstream=upstream, relay=relay, v6=True)
            nursery.start_soon(serve_udp, sock, {socket.if_nametoindex("lo"): client}.get, resolver)
            await measure("pyinterceptor", sock.getsockname()[1], time.process_time)
            nursery.cancel_scope.cancel()


async def dnsmasq(upstream_port: int) -> None:
    program = shutil.which("dnsmasq", path="/usr/sbin:/usr/bin")
    if program is None:
        print("dnsmasq: not installed")
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null", "--user=root"]
    options += ["--cache-size=10000", f"--port={port}", f"--server=127.0.0.1#{upstream_port}"]
    options += ["--bind-interfaces", "--pid-file="]
    with subprocess.Popen(  # noqa: ASYNC220
        [program, *options, "--listen-address=127.0.0.1"]
    ) as process:
        try:
            await trio.sleep(1)
            await measure("dnsmasq", port, lambda: spent(process.pid))
        finally:
            process.kill()


async def main() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        server = multiprocessing.Process(target=nameserver, args=(sock,), daemon=True)
        server.start()
        await ours(sock.getsockname()[1])
        await dnsmasq(sock.getsockname()[1])
        server.kill()


if __name__ == "__main__":
    trio.run(main)
