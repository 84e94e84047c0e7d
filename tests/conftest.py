"""Fixtures of all tests: checks for leaks and for ERROR records, instance names, the tests' world, servers.

Tests in kernel/ and e2e/ need root and namespaces of their own, which `./dev test` makes. Without them they are
skipped; if CI=true, they fail.
"""

from __future__ import annotations

import gc
import itertools
import logging
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pyinterceptor.paths import RUN
from tests.bindings.redis_servers import VALKEY, RedisServer, three_nodes
from tests.bindings.s3_server import ACCESS, SECRET, S3Server
from tests.e2e.sanitized import SanitizedRun
from tests.world import World

HERE = Path(__file__).parent
IN_A_WORLD = "PYINTERCEPTOR_WORLD" in os.environ
COUNTER = itertools.count(1)


def pytest_configure() -> None:
    """Restores the signals that a process in the background, as by nohup(1), ignores. Children inherit that."""
    for number in (signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    place = item.path.relative_to(HERE).parts[0]
    if place in ("kernel", "e2e") and not IN_A_WORLD:
        why = "needs root and namespaces of its own: ./dev test"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """Asserts that no mount, pin, state or process of ours survives the session. It is the last fixture to end."""
    before = leftovers()
    yield
    left = leftovers() - before
    assert not left, f"left behind: {', '.join(sorted(left))}"


def leftovers() -> set[str]:
    """Returns the mounts and files below RUN, and the processes that this one has started."""
    found = {f"file {path}" for path in RUN.glob("*")} if IN_A_WORLD else set()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place = line.split()[4]
        if place.startswith(f"{RUN}/") and IN_A_WORLD:
            found.add(f"mount {place}")
    return found | {f"process {pid} {name}" for pid, name in descendants()}


def descendants() -> Iterator[tuple[int, str]]:
    """Yields living descendants of this process; in a world of our own, every process but this one and the first."""
    parents: dict[int, tuple[int, str]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, tail = stat.read_text().rpartition(")")
        except OSError:
            continue
        state, parent = tail.split()[:2]
        if state not in "ZX":
            pid, _, name = head.partition(" (")
            parents[int(pid)] = (int(parent), name)
    for pid, (parent, name) in parents.items():
        while parent in parents and parent != os.getpid() and not IN_A_WORLD:
            parent = parents[parent][0]
        if pid not in (1, os.getpid()) and (IN_A_WORLD or parent == os.getpid()):
            yield pid, name


@pytest.fixture(scope="session", autouse=True)
def sanitized(
    request: pytest.FixtureRequest, nothing_is_left_behind: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SanitizedRun | None]:
    """Starts the run at the beginning of a session that has one of its tests, because it takes minutes."""
    if not any("sanitized" in item.function.__annotations__ for item in request.session.items):
        yield None
        return
    with SanitizedRun(tmp_path_factory.mktemp("sanitized")) as running:
        yield running


@pytest.fixture(autouse=True)
def no_descriptor_leaks(nothing_is_left_behind: None) -> Iterator[None]:
    """Asserts that every descriptor that a test opened is closed when the test ends."""
    before = descriptors()
    yield
    left = descriptors() - before
    if left:  # a reference cycle may hold one until the collector runs; that is no leak
        gc.collect()
        left = descriptors() - before
    assert not left, f"descriptors left open: {sorted(left)}"


def descriptors() -> set[tuple[int, str]]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add((int(name), os.readlink(f"/proc/self/fd/{name}")))
        except OSError:
            continue  # the descriptor of the listing itself
    return found


@pytest.fixture
def expected_errors() -> None:
    """Allows a test to log errors; the test checks them through `caplog`."""


@pytest.fixture(autouse=True)
def no_errors_in_the_log(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fails a test that logs ERROR records, unless it uses `expected_errors`."""
    yield
    if "expected_errors" not in request.fixturenames:
        errors = [
            record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.ERROR
        ]
        assert not errors, f"errors were logged: {errors}"


@pytest.fixture
def instance() -> str:
    """Returns a unique instance name."""
    return f"t{os.getpid()}-{next(COUNTER)}"


@pytest.fixture(scope="session")
def world(nothing_is_left_behind: None) -> Iterator[World]:
    """The internet of the tests, reachable from this namespace: see tests/world."""
    with World() as opened:
        yield opened


@pytest.fixture(scope="session")
def redis_server(nothing_is_left_behind: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that all tests share; each test uses keys of its own."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster(
    nothing_is_left_behind: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sequence[RedisServer]]:
    """Three nodes that all tests share; each test uses keys of its own."""
    with three_nodes(tmp_path_factory.mktemp("cluster")) as nodes:
        yield nodes


@pytest.fixture(scope="session")
def valkey_server(nothing_is_left_behind: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Like `redis_server`, with Valkey."""
    with RedisServer(tmp_path_factory.mktemp("valkey"), program=VALKEY) as server:
        yield server


@pytest.fixture(scope="session")
def valkey_cluster(
    nothing_is_left_behind: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sequence[RedisServer]]:
    """Like `redis_cluster`, with Valkey."""
    with three_nodes(tmp_path_factory.mktemp("valkey-cluster"), VALKEY) as nodes:
        yield nodes


@pytest.fixture(scope="session")
def s3_server(nothing_is_left_behind: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server that all tests share; each test uses keys of its own. Its credentials are in the environment."""
    with S3Server(tmp_path_factory.mktemp("s3")) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        for name in ("tests", "alone"):  # before any test: the first bucket after a killed gateway has to wait
            server.make_bucket(name)
        yield server
