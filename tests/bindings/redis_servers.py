"""Real Redis servers on the loopback address, on ports of their own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import TracebackType

import redis

PATIENCE = 30.0  # seconds for a server to be ready
PAUSE = 0.02  # seconds between two looks


class RedisServer:
    """A process while the block lasts."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        place = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(directory)]
        self._argv = ["redis-server", *place, "--save", "", *options]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()

    def start(self) -> None:
        """Returns when it answers."""
        self._process = subprocess.Popen(self._argv, stdout=subprocess.DEVNULL)
        until(self.answers)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """It takes connections and says nothing, as one that hangs."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process.pid, signal.SIGCONT)
            until(self.answers)

    def command(self, *words: str | int) -> object:
        with closing(redis.Redis(port=self.port)) as client:
            return client.execute_command(*words)

    def answers(self) -> bool:
        try:
            return bool(self.command("PING"))
        except (redis.ConnectionError, redis.TimeoutError):
            return False


@contextmanager
def three_nodes(directory: Path) -> Iterator[Sequence[RedisServer]]:
    """A cluster without replicas."""
    with ExitStack() as stack:
        nodes = []
        for number in range(3):
            place = directory / str(number)
            place.mkdir()
            options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"]
            nodes.append(stack.enter_context(RedisServer(place, *options)))
        addresses = [f"127.0.0.1:{node.port}" for node in nodes]
        make = ["redis-cli", "--cluster", "create", *addresses, "--cluster-replicas", "0", "--cluster-yes"]
        done = subprocess.run(make, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        until(lambda: all(is_whole(node) for node in nodes))
        yield nodes


def is_whole(node: RedisServer) -> bool:
    info = str(node.command("CLUSTER", "INFO"))
    return "cluster_state:ok" in info and "cluster_known_nodes:3" in info


def until(is_so: Callable[[], bool]) -> None:
    """Waits for another process, which tells nobody."""
    end = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < end, "the server did not come up"
        time.sleep(PAUSE)


def free_port() -> int:
    """One below 10 000 less than the highest, as a cluster's bus needs the other."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = int(taken.getsockname()[1])
        if port < 55_000:
            return port
