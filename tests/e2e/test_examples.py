"""The examples' KV and R2, used by curl in real containers: the embedded runtime's, and podman's."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import trio

from pyinterceptor import App, open_interceptor
from pyinterceptor.app.load import load_app
from pyinterceptor.bindings.state import state_of_file
from pyinterceptor.paths import STATE
from tests.bindings.redis_servers import RedisServer
from tests.bindings.s3_server import S3Server
from tests.e2e.clients import TIME
from tests.starting import started
from tests.world import World
from tests.world.image import curl_image, remove_image

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
IMAGE = "pyinterceptor-test-curl"
CURL = ["curl", "-sS", "-m", "20", "--path-as-is", "-w", "\n%{http_code}"]
LARGE = 30 * 1024 * 1024  # bytes
FLAT = 48 * 1024 * 1024  # bytes of memory for a body of any size


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    curl_image(IMAGE)
    yield IMAGE
    remove_image(IMAGE)


@pytest.fixture(params=["embedded", "podman"])
def runtime(request: pytest.FixtureRequest) -> str | None:
    """Returns the image to run in; None for the embedded runtime."""
    return None if request.param == "embedded" else str(request.getfixturevalue("image"))


@asynccontextmanager
async def opened(
    example: str, image: str | None, instance: str, settings: Mapping[str, str] | None = None
) -> AsyncIterator[Any]:
    """Yields a function that returns the container of the example's class with a name."""
    example_app = load_app(str(EXAMPLES / example))
    cls = example_app.containers[0]
    if image is not None:
        cls = type(cls)("InImage", (cls,), {"image": image})
    bindings = {name: cls if value in example_app.containers else value for name, value in example_app.bindings.items()}
    app = App(containers=[cls], bindings=bindings, exports=[*example_app.entrypoints().values()])
    with trio.fail_after(TIME):
        async with open_interceptor(app, instance=instance, settings=settings) as interceptor:

            async def start(name: str) -> Any:
                return await started(interceptor, cls, name)

            yield start


async def curl(container: Any, *arguments: str, input: bytes | None = None) -> tuple[int, bytes]:
    """Returns the status and the body."""
    finished = await container.exec([*CURL, *arguments], input=input)
    assert finished.returncode == 0, finished.stderr.decode(errors="replace")
    body, _, status = finished.stdout.rpartition(b"\n")
    return int(status), body


def test_values_are_kept_and_found_by_path(runtime: str | None, world: World, instance: str) -> None:
    async def main() -> None:
        async with opened("kv.py", runtime, instance) as start:
            container = await start("one")
            assert await curl(container, "http://my.kv/some-key") == (404, b"")
            assert await curl(container, "-T", "-", "http://my.kv/some-key", input=b"a value\0") == (204, b"")
            assert await curl(container, "http://my.kv/some-key") == (200, b"a value\0")
            assert (await curl(container, "-I", "http://my.kv/some-key"))[0] == 200
            assert (await curl(container, f"http://my.kv/{'x' * 513}"))[0] == 414
            assert (await curl(container, "http://my.kv/"))[0] == 400
            assert (await curl(container, "-X", "POST", "http://my.kv/some-key"))[0] == 405
            assert await curl(container, "http://my.kv/some-key") == (200, b"a value\0")
            assert await curl(container, "-X", "DELETE", "http://my.kv/some-key") == (204, b"")
            assert await curl(container, "http://my.kv/some-key") == (404, b"")

    trio.run(main)


@pytest.fixture(params=["files", "s3"])
def store(request: pytest.FixtureRequest) -> Mapping[str, str]:
    """Returns the settings that select the store."""
    if request.param == "files":
        return {}
    server: S3Server = request.getfixturevalue("s3_server")
    return {"BUCKET": server.url("tests", f"{request.node.name}/")}


def test_two_containers_cannot_see_each_others_objects(
    runtime: str | None, store: Mapping[str, str], world: World, instance: str
) -> None:
    async def main() -> None:
        async with opened("r2.py", runtime, instance, store) as start:
            one, two = await start("one"), await start("two")
            assert (await curl(one, "-T", "-", "http://my.r2/file", input=b"that of one"))[0] == 201
            assert (await curl(two, "http://my.r2/file"))[0] == 404
            assert (await curl(two, "-T", "-", "http://my.r2/file", input=b"that of two"))[0] == 201
            assert await curl(one, "http://my.r2/file") == (200, b"that of one")
            assert await curl(two, "http://my.r2/file") == (200, b"that of two")
            assert await curl(two, "-X", "DELETE", "http://my.r2/file") == (204, b"")
            assert await curl(one, "http://my.r2/file") == (200, b"that of one")
            # Every path begins with the container's own id, and a path can't change that.
            assert await curl(one, "-sS", "http://my.r2/../file") == (200, b"that of one")
            for path in ("/../" * 5 + "etc/passwd", "/%2e%2e/index.sqlite", "/..%00/x"):
                assert (await curl(two, f"http://my.r2{path}"))[0] == 404

    trio.run(main)


def test_objects_are_served_as_http_has_them(
    runtime: str | None, store: Mapping[str, str], world: World, instance: str
) -> None:
    large = os.urandom(1024) * (LARGE // 1024)

    async def main() -> None:
        async with opened("r2.py", runtime, instance, store) as start:
            container = await start("one")
            put = ["-T", "-", "-H", "content-type: text/x", "http://my.r2/large"]
            assert (await curl(container, *put, input=large))[0] == 201
            status, body = await curl(container, "http://my.r2/large")
            assert status == 200
            assert hashlib.sha256(body).digest() == hashlib.sha256(large).digest()
            assert await curl(container, "-r", "5-8", "http://my.r2/large") == (206, large[5:9])
            assert await curl(container, "-r", "-4", "http://my.r2/large") == (206, large[-4:])
            assert (await curl(container, "-r", f"{LARGE}-", "http://my.r2/large"))[0] == 416
            _, head = await curl(container, "-I", "http://my.r2/large")
            fields = dict(line.split(": ", 1) for line in head.decode().lower().splitlines() if ": " in line)
            assert fields["content-type"] == "text/x"
            assert fields["content-length"] == str(LARGE)

            async def status_with(*some: str, path: str = "large") -> int:
                """Returns the status of a GET, or of a PUT with -T, with these fields."""
                arguments = [word for field in some for word in (["-H", field] if ": " in field else [field])]
                status, body = await curl(container, *arguments, f"http://my.r2/{path}", input=b"new")
                assert body == {200: large, 304: b"", 412: b""}.get(status, body) or "-T" in arguments
                return status

            etag, now = fields["etag"], formatdate(usegmt=True)
            long_ago = formatdate(0, usegmt=True)
            assert await status_with(f"If-None-Match: {etag}") == 304
            assert await status_with(f"If-Modified-Since: {now}") == 304
            assert await status_with(f"If-Modified-Since: {long_ago}") == 200
            assert await status_with('If-Match: "another"') == 412
            assert await status_with(f"If-Unmodified-Since: {long_ago}") == 412
            for unusable in ("bytes=0-1,4-5", "items=0-1", "bytes=3-2", "bytes=x"):
                assert await status_with(f"Range: {unusable}") == 200
            assert await status_with("Range: bytes=0-1", 'If-Range: "another"') == 200
            assert (await curl(container, "-I", "-r", f"{LARGE}-", "http://my.r2/large"))[0] == 200
            assert await status_with("-T", "-", "If-None-Match: *") == 412
            assert await status_with("-T", "-", "If-None-Match: *", path="new") == 201
            assert await status_with("-T", "-", f"If-Match: {etag}") == 201
            assert await curl(container, "-T", "-", "http://my.r2/empty", input=b"") == (201, b"")
            assert await curl(container, "http://my.r2/empty") == (200, b"")
            assert await curl(container, "-H", "Range: items=0-", "http://my.r2/empty") == (200, b"")
            assert (await curl(container, "-r", "0-", "http://my.r2/empty"))[0] == 416

    trio.run(main)


def test_a_container_is_answered_in_time_whatever_becomes_of_the_engine(
    world: World, instance: str, tmp_path: Path
) -> None:
    """The answer does not name the engine."""

    async def main() -> None:
        with RedisServer(tmp_path) as server:
            async with opened("kv.py", None, instance, {"KV": server.url}) as start:
                container = await start("one")
                put, get = ["-T", "-", "http://my.kv/key"], ["http://my.kv/key"]
                assert (await curl(container, *put, input=b"old"))[0] == 204
                with server.stopped():
                    for call in (get, put):
                        with trio.fail_after(8):
                            status, said = await curl(container, *call, input=b"new")
                        assert status == 504
                        assert b"redis" not in said
                assert await curl(container, *get) == (200, b"old")
                server.kill()
                with trio.fail_after(8):
                    status, said = await curl(container, *get)
                assert (status, b"redis" in said) == (503, False)
                await trio.to_thread.run_sync(server.start)
                assert (await curl(container, *put, input=b"new"))[0] == 204
                assert await curl(container, *get) == (200, b"new")

    trio.run(main)


# --- by the command line --------------------------------------------------------------------------------------------


def run(example: str, *command: str, options: Sequence[str] = (), **environment: str) -> tuple[int, str, str]:
    argv = [sys.executable, "-m", "pyinterceptor", "run", *options, str(EXAMPLES / example), "--", *command]
    done = subprocess.run(argv, capture_output=True, text=True, env=os.environ | environment, timeout=TIME, cwd="/tmp")
    return done.returncode, done.stdout, done.stderr


PUT, GET = ["curl", "-sS", "-T", "-", "http://my.kv/key"], ["curl", "-sS", "http://my.kv/key"]


def put(value: str) -> list[str]:
    return ["sh", "-c", f"printf {value} | curl -sS -T - http://my.kv/key"]


def test_the_next_run_finds_the_values_of_the_last_and_the_container_no_file_of_them(world: World) -> None:
    assert run("kv.py", *put("first")) == (0, "", "")
    assert run("kv.py", *GET) == (0, "first", "")
    assert (STATE / state_of_file(str(EXAMPLES / "kv.py")) / "kv" / "KV.sqlite").exists()
    assert run("kv.py", "sh", "-c", f"test ! -e {STATE}") == (0, "", "")
    assert run("kv.py", *GET, options=["--state", "another"]) == (0, "", "")


def test_the_first_line_of_verbose_says_where_state_is_and_whether_it_is_new(world: World, tmp_path: Path) -> None:
    def first(app: Path) -> str:
        argv = [sys.executable, "-m", "pyinterceptor", "run", "-v", str(app), "--", *put("value")]
        given: Any = {"cwd": "/tmp", "env": {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}}
        done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=TIME, **given)
        return done.stderr.splitlines()[0]

    app = Path(shutil.copy(EXAMPLES / "kv.py", tmp_path))
    place = STATE / state_of_file(str(app))
    new = "which is new and empty; --state NAME chooses another"
    assert first(app) == f"pyinterceptor: state is in {place}, {new}"
    assert first(app) == f"pyinterceptor: state is in {place}, with the data of earlier runs"
    renamed = app.rename(tmp_path / "renamed.py")
    assert first(renamed) == f"pyinterceptor: state is in {STATE / state_of_file(str(renamed))}, {new}"


def test_two_gigabytes_go_in_and_out_of_a_container_with_flat_memory(world: World) -> None:
    def peak(size: int) -> int:
        """Returns the peak of the interceptor's memory in bytes for one object of this size, compiler included."""
        script = f"head -c {size} /dev/zero | curl -sS -T - http://my.r2/x && curl -sS http://my.r2/x | wc -c"
        script += " && curl -sS -X DELETE http://my.r2/x"
        argv = [sys.executable, "-m", "pyinterceptor", "run", str(EXAMPLES / "r2.py"), "--", "sh", "-c", script]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd="/tmp") as running:
            assert running.stdout is not None
            assert running.stdout.read() == f"{size}\n"
            _, status, usage = os.wait4(running.pid, 0)
            running.returncode = os.waitstatus_to_exitcode(status)
        assert running.returncode == 0
        return usage.ru_maxrss * 1024

    assert peak(2 * 1024**3) - peak(1024) < FLAT


def test_the_engine_is_chosen_by_configuration_alone(world: World, redis_server: RedisServer) -> None:
    url = f"{redis_server.url}?prefix=by-configuration"
    assert run("kv.py", *put("in-redis"), options=["--binding", f"KV={url}"]) == (0, "", "")
    assert run("kv.py", *GET, PYINTERCEPTOR_BINDING_KV=url) == (0, "in-redis", "")
    embedded = ["--binding", "KV=embedded:", "--state", "fresh"]
    assert run("kv.py", *GET, options=embedded, PYINTERCEPTOR_BINDING_KV=url) == (0, "", "")
    seen = "test -z $PYINTERCEPTOR_BINDING_KV"
    assert run("kv.py", "sh", "-c", seen, PYINTERCEPTOR_BINDING_KV=url) == (0, "", "")


@pytest.mark.parametrize(
    ("binding", "code", "said"),
    [
        ("KW=x", 2, "configure binding KW: unknown binding; the app's bindings: KV"),
        ("KV=mongodb://x", 2, "configure binding KV: a KV's URL must be embedded: or begin with redis://"),
        ("KV=redis://user:s3cret@/x/y", 2, "binding KV: the URL must have the form redis://"),
        ("KV=redis://:s3cret@127.0.0.1:1", 125, "KV KV: redis at 127.0.0.1:1: can't connect"),
        ("KV", 2, "--binding KV: write NAME=VALUE"),
    ],
)
def test_an_invalid_binding_is_reported_in_one_line_without_its_password(
    binding: str, code: int, said: str
) -> None:
    returned, printed, complaint = run("kv.py", "true", options=["--binding", binding])
    assert (returned, printed) == (code, "")
    assert said in complaint
    assert complaint.count("\n") == 1
    assert "s3cret" not in complaint


def test_a_set_up_command_has_access_while_it_runs_and_not_after(
    runtime: str | None, world: World, instance: str
) -> None:
    async def main() -> None:
        async with opened("give_access.py", runtime, instance) as start:
            container = await start("one")
            assert (await container.exec("curl -s -m 20 http://my.kv/token")).returncode != 0
            assert await curl(container, "http://my.setup/") == (200, b"a token200")
            assert (await container.exec("curl -s -m 20 http://my.kv/token")).returncode != 0

    trio.run(main)


def test_the_low_level_example_decides_everything_and_changes_while_it_runs(
    runtime: str | None, world: World, instance: str
) -> None:
    async def main() -> None:
        async with opened("low_level.py", runtime, instance) as start:
            container = await start("one")
            hosts = ["http://203.0.113.7/", "http://foo.com/", "http://anything.test/", "http://v4.origin.test/ok"]
            for host in hosts:
                assert await curl(container, host) == (200, b"setup\n")
            await container.finish_setup()
            assert (await curl(container, hosts[-1]))[1] != b"setup\n"
            assert (await curl(container, hosts[-1]))[0] == 200
            await container.stop()
            await container.begin()
            assert await curl(container, "http://203.0.113.7/") == (200, b"setup\n")

    trio.run(main)
