"""The process that owns a container is killed by kill -9 while traffic runs."""

from __future__ import annotations

import os
import queue
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from pyinterceptor.capture.gateway.state import remove_leftovers, state_of
from tests.e2e.clients import output, running_container
from tests.e2e.owner import Sandbox
from tests.kernel.container import AT_ONCE, DEADLINE, BareContainer, family
from tests.world import ORIGIN_V4, ORIGIN_V6, OTHER_V4, OTHER_V6, World

PORT = 9999  # of the test's own origin
DIALLED = [(ORIGIN_V4, 7), (ORIGIN_V6, 7), (OTHER_V4, 80), (OTHER_V6, 443), ("169.254.1.1", 53)]


@contextmanager
def owner(instance: str) -> Iterator[tuple[subprocess.Popen[bytes], BareContainer, int]]:
    """Yields a process of owner.py, its container's network, and a pidfd of the container's first process."""
    argv = [sys.executable, "-m", "tests.e2e.owner", instance]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            pid = int(process.stdout.readline())
            first = os.pidfd_open(pid)
            network = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                yield process, BareContainer(network), first
            finally:
                os.close(first)
                os.close(network)
        finally:
            process.kill()
            process.wait()
            remove_leftovers(instance)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A connection attempt of a container: its begin, its error (None if it succeeded), and its duration."""

    began: float
    error: str | None
    seconds: float


class Attempts:
    """Makes connections from the container, one after the other, until it is stopped."""

    def __init__(self, container: BareContainer) -> None:
        self._container = container
        self._stopping = threading.Event()
        self._made: queue.Queue[Attempt] = queue.Queue()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Attempts:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def next(self) -> Attempt:
        return self._made.get(timeout=DEADLINE)

    def after(self, moment: float, count: int) -> list[Attempt]:
        """Returns the first `count` attempts that began after this moment."""
        found: list[Attempt] = []
        while len(found) < count:
            if (attempt := self.next()).began > moment:
                found.append(attempt)
        return found

    def _run(self) -> None:
        while not self._stopping.is_set():
            for address, port in DIALLED:
                began = time.monotonic()
                try:
                    self._container.connect(address, port).close()
                    error = None
                except OSError as failure:
                    error = type(failure).__name__
                self._made.put(Attempt(began, error, time.monotonic() - began))


@contextmanager
def spliced(container: BareContainer, world: World, address: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yields both ends of a flow to an origin of the test."""
    with world.inside(lambda: socket.create_server((address, PORT), family=family(address))) as origin:
        origin.settimeout(DEADLINE)
        with container.connect(address, PORT) as here:
            here.sendall(b"ping\n")
            there, _ = origin.accept()
            with there:
                there.settimeout(DEADLINE)
                assert there.recv(5) == b"ping\n"
                there.sendall(b"pong")
                assert here.recv(4) == b"pong"
                yield here, there


@contextmanager
def handled(container: BareContainer) -> Iterator[socket.socket]:
    """Yields the client of a flow whose handler has begun a response and does not end it."""
    with container.connect(OTHER_V4, 80) as here:
        here.sendall(b"GET /endless HTTP/1.1\r\nHost: my.kv\r\n\r\n")
        received = b""
        while b"the beginning\n" not in received:
            received += here.recv(4096)
        yield here


def test_from_a_kill_on_nothing_gets_out_and_open_flows_are_reset(world: World, instance: str) -> None:
    with owner(instance) as (process, container, first):
        with (
            Attempts(container) as attempts,
            spliced(container, world, ORIGIN_V4) as v4,
            spliced(container, world, ORIGIN_V6) as v6,
            handled(container) as waiting,
        ):
            before = world.counts()
            assert {attempts.next().error for _ in range(50)} == {None}
            while world.counts().syns - before.syns < 20:  # they arrive with a delay
                assert attempts.next().error is None

            process.kill()
            process.wait()
            moment = time.monotonic()
            dead = world.counts()

            ends = {"here, v4": v4[0], "there, v4": v4[1], "here, v6": v6[0], "there, v6": v6[1], "handled": waiting}
            assert {name: ending(end) for name, end in ends.items()} == dict.fromkeys(ends, "ConnectionResetError")
            refused = attempts.after(moment, 200)
            assert {attempt.error for attempt in refused} == {"ConnectionRefusedError"}
            assert sorted(attempt.seconds for attempt in refused)[100] < AT_ONCE  # on a busy machine some may be slow
            for address in (ORIGIN_V4, ORIGIN_V6, "169.254.1.1"):
                for port in (53, 443):
                    assert container.datagram_refusal(address, port).error == "ConnectionRefusedError"
        assert world.counts() == dead
        assert select.select([first], [], [], DEADLINE)[0], "the workload outlives its owner"
        assert container.interfaces() == {"lo", "eth0"}
        trio.run(start_again, instance)
        assert container.interfaces() == {"lo"}
    assert world.counts().syns > dead.syns
    assert not state_of(instance).directory.exists()


def ending(end: socket.socket) -> str:
    """Returns the next bytes at one end of a flow, or the name of the error."""
    try:
        return repr(end.recv(4096))
    except OSError as error:
        return type(error).__name__


async def start_again(instance: str) -> None:
    async with running_container(Sandbox, instance, []) as container:
        assert await output(container, ["curl", "-sS", "http://my.kv/"]) == "handled\n"
        for host, address in (("v4.origin.test", ORIGIN_V4), ("v6.origin.test", ORIGIN_V6)):
            page = await output(container, ["curl", "-sS", f"http://{host}/who"])
            assert page.split()[:2] == [host, address]
