"""What every test gets: leak checks, errors in the log that fail it, an instance name, the world.

Tests in kernel/ and e2e/ need root and namespaces of their own, which `./dev test` makes; without them they
are skipped, and fail where CI=true.
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
    """Started in the background, as by nohup(1), we have signals ignored: what we start would inherit that."""
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
    """The last to end: no mount, pin, state or process of ours survives the session."""
    before = leftovers()
    yield
    left = leftovers() - before
    assert not left, f"left behind: {', '.join(sorted(left))}"


def leftovers() -> set[str]:
    """What is there of ours: mounts and files below RUN, processes begun since."""
    found = {f"file {path}" for path in RUN.glob("*")} if IN_A_WORLD else set()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place = line.split()[4]
        if place.startswith(f"{RUN}/") and IN_A_WORLD:
            found.add(f"mount {place}")
    return found | {f"process {pid} {name}" for pid, name in descendants()}


def descendants() -> Iterator[tuple[int, str]]:
    """Living processes below ours; in a world of our own, every one but ours and the first."""
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
    """Begun with the session where one of its tests asks for it: it takes minutes."""
    if not any("sanitized" in item.function.__annotations__ for item in request.session.items):
        yield None
        return
    with SanitizedRun(tmp_path_factory.mktemp("sanitized")) as running:
        yield running


@pytest.fixture(autouse=True)
def no_descriptor_leaks(nothing_is_left_behind: None) -> Iterator[None]:
    """Every descriptor that a test opens is closed when it ends."""
    before = descriptors()
    yield
    left = descriptors() - before
    if left:  # a cycle may hold one; what the collector closes is no leak
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
    """A test that takes it may log errors; it looks at them through `caplog`."""


@pytest.fixture(autouse=True)
def no_errors_in_the_log(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """ERROR records fail a test, unless it takes `expected_errors`."""
    yield
    if "expected_errors" not in request.fixturenames:
        errors = [
            record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.ERROR
        ]
        assert not errors, f"errors were logged: {errors}"


@pytest.fixture
def instance() -> str:
    """An instance name that nobody else has."""
    return f"t{os.getpid()}-{next(COUNTER)}"


@pytest.fixture(scope="session")
def world(nothing_is_left_behind: None) -> Iterator[World]:
    """The internet of the tests, reachable from this namespace: see tests/world."""
    with World() as opened:
        yield opened


@pytest.fixture(scope="session")
def redis_server(nothing_is_left_behind: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One that all tests share: each uses keys of its own."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster(
    nothing_is_left_behind: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sequence[RedisServer]]:
    """Three nodes that all tests share."""
    with three_nodes(tmp_path_factory.mktemp("cluster")) as nodes:
        yield nodes


@pytest.fixture(scope="session")
def valkey_server(nothing_is_left_behind: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """As `redis_server`."""
    with RedisServer(tmp_path_factory.mktemp("valkey"), program=VALKEY) as server:
        yield server


@pytest.fixture(scope="session")
def valkey_cluster(
    nothing_is_left_behind: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sequence[RedisServer]]:
    """As `redis_cluster`."""
    with three_nodes(tmp_path_factory.mktemp("valkey-cluster"), VALKEY) as nodes:
        yield nodes


@pytest.fixture(scope="session")
def s3_server(nothing_is_left_behind: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One that all tests share, with its credentials where they are looked for: each uses keys of its own."""
    with S3Server(tmp_path_factory.mktemp("s3")) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        for name in ("tests", "alone"):  # at once: a gateway that was killed makes the next bucket wait
            server.make_bucket(name)
        yield server
