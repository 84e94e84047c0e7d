"""Jobs of real tools in a container: package managers, git, an S3 client, and thousands of mixed requests.

Each job runs spliced, through a handler of one host that forwards requests, and through one of all hosts.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from pyinterceptor import Container, Response, fetch
from tests.bindings.s3_server import ACCESS, SECRET, S3Server
from tests.e2e.clients import output, running_container
from tests.world import ORIGIN_V4, World
from tests.world.network import wait_for_port
from tests.world.packages import PARTS, write_indexes
from tests.world.servers import end

HERE = Path(__file__).parent
HOST = "origin.test"
REQUESTS = 4000  # mixed ones, of each of three clients
MIXED_PORT = 8081


class Spliced(Container):
    """Only another host has a handler."""


class Forwarded(Container):
    """The jobs' host has a handler."""


class CatchAll(Container):
    """Every host has a handler."""


@Spliced.outbound_by_host("my.kv")
@Forwarded.outbound_by_host(HOST)
@CatchAll.outbound
async def forward(request: Any, env: Any, ctx: Any) -> Response:
    env.seen.append(f"{request.method} {request.url.path}")
    return await fetch(request)


WAYS = pytest.mark.parametrize("cls", [Spliced, Forwarded, CatchAll], ids=["spliced", "forwarded", "catch-all"])


@pytest.fixture(scope="module")
def indexes(world: World) -> None:
    """The indexes of npm, pip and apt on the world's nginx."""
    write_indexes(world.directory / "www", HOST)


@pytest.fixture(scope="module")
def repository(world: World) -> None:
    """An empty git repository, /git/pushed.git, which accepts pushes."""
    made = str(world.directory / "git" / "pushed.git")
    subprocess.run(["git", "init", "-q", "--bare", made], check=True)
    subprocess.run(["git", "-C", made, "config", "http.receivepack", "true"], check=True)


@pytest.fixture(scope="module")
def store(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A store in the world, with the bucket `jobs`."""
    server = world.inside(lambda: S3Server(tmp_path_factory.mktemp("s3"), ORIGIN_V4))
    world.inside(server.__enter__)
    try:
        server.make_bucket("jobs")
        yield server
    finally:
        server.__exit__(None, None, None)


@pytest.fixture(scope="module")
def mixed(world: World) -> Iterator[None]:
    """The server of mixed requests."""
    server = world.popen(["node", str(HERE.parent / "world" / "mixed.js"), str(MIXED_PORT)])
    try:
        wait_for_port(ORIGIN_V4, MIXED_PORT)
        yield
    finally:
        end(server)


def job(cls: type[Container], instance: str, *steps: list[str]) -> tuple[str, list[str]]:
    """Runs the commands in one container. Returns the output of the last, and the requests that the handler saw."""
    seen: list[str] = []

    async def main() -> str:
        async with running_container(cls, instance, seen) as container:
            *before, last = steps
            for argv in before:
                await output(container, argv)
            return await output(container, last)

    return trio.run(main), seen


def downloads(seen: list[str], ending: str) -> int:
    return sum(line.startswith("GET ") and line.endswith(ending) for line in seen)


@WAYS
@pytest.mark.usefixtures("indexes")
def test_npm_installs_a_package_and_its_dependencies(cls: type[Container], instance: str) -> None:
    install = ["npm", "install", "--prefix", "/tmp/project", "--cache", "/tmp/cache", "--no-update-notifier"]
    printed, seen = job(
        cls,
        instance,
        [*install, "--registry", f"http://{HOST}/npm/", "greeter"],
        ["node", "-p", "require('/tmp/project/node_modules/greeter')"],
    )
    assert printed == "hello from npm\n"
    assert downloads(seen, ".tgz") == (0 if cls is Spliced else PARTS + 1)


@WAYS
@pytest.mark.usefixtures("indexes")
def test_pip_installs_a_package_and_its_dependencies(cls: type[Container], instance: str) -> None:
    index = ["--index-url", f"http://{HOST}/simple/", "--trusted-host", HOST, "--disable-pip-version-check"]
    printed, seen = job(
        cls,
        instance,
        ["/usr/bin/python3", "-m", "pip", "--isolated", "install", "-q", *index, "--target", "/tmp/site", "greeter"],
        ["sh", "-c", "ls -d /tmp/site/greeter_part_*/body.bin | wc -l; cat /tmp/site/greeter/__init__.py"],
    )
    assert printed == f"{PARTS}\nGREETING = 'hello from pip'\n"
    assert downloads(seen, ".whl") == (0 if cls is Spliced else PARTS + 1)


@WAYS
@pytest.mark.usefixtures("indexes")
def test_apt_updates_and_installs_a_package_and_its_dependencies(cls: type[Container], instance: str) -> None:
    prepared = (
        "mkdir -p /tmp/apt/etc/preferences.d /tmp/apt/state/lists/partial /tmp/apt/cache/archives/partial"
        " /tmp/apt/log /tmp/root/var/lib/dpkg/info /tmp/root/var/lib/dpkg/updates;"
        " : >/tmp/root/var/lib/dpkg/status;"
        f" echo 'deb [trusted=yes] http://{HOST}/debian ./' >/tmp/apt/etc/sources.list"
    )
    options = [
        *("Dir::Etc=/tmp/apt/etc/", "Dir::State=/tmp/apt/state/", "Dir::State::status=/tmp/root/var/lib/dpkg/status"),
        *("Dir::Cache=/tmp/apt/cache/", "Dir::Log=/tmp/apt/log/", "APT::Sandbox::User=root", "Dpkg::Use-Pty=0"),
        *("Dpkg::Options::=--root=/tmp/root", "Dpkg::Options::=--force-not-root"),
        f"Acquire::http::Proxy::{HOST}=DIRECT",  # overrides a proxy of the machine
    ]
    apt = ["apt-get", "-y", *(word for option in options for word in ("-o", option))]
    printed, seen = job(
        cls,
        instance,
        ["sh", "-c", prepared],
        [*apt, "update"],
        [*apt, "install", "greeter"],
        ["sh", "-c", "ls -d /tmp/root/opt/greeter-part-* | wc -l; cat /tmp/root/opt/greeter/greeting"],
    )
    assert printed == f"{PARTS}\nhello from apt\n"
    assert downloads(seen, ".deb") == (0 if cls is Spliced else PARTS + 1)


@WAYS
@pytest.mark.usefixtures("repository")
def test_git_pushes_a_large_commit_and_clones_it(cls: type[Container], instance: str) -> None:
    url = f"http://{HOST}/git/pushed.git"
    committed = (  # more than http.postBuffer, so that git sends the pack chunked
        "git init -q -b $1 /tmp/made && cd /tmp/made && head -c 3000000 /dev/urandom >body.bin && git add . &&"
        " git -c user.name=World -c user.email=world@origin.test commit -q -m 'A large file'"
    )
    compared = f"git clone -q -b $1 {url} /tmp/cloned && cmp /tmp/made/body.bin /tmp/cloned/body.bin && echo equal"
    printed, seen = job(
        cls,
        instance,
        ["sh", "-c", committed, "sh", instance],
        ["git", "-C", "/tmp/made", "push", "-q", url, instance],
        ["sh", "-c", compared, "sh", instance],
    )
    assert printed == "equal\n"
    assert ("POST /git/pushed.git/git-receive-pack" in seen) == (cls is not Spliced)


# Arguments: endpoint, access key, secret key, name of the object.
MULTIPART = """
import hashlib, os, sys
from concurrent.futures import ThreadPoolExecutor
from botocore.config import Config
from botocore.session import Session
endpoint, access, secret, name = sys.argv[1:]
client = Session().create_client(
    "s3", region_name="us-east-1", endpoint_url=endpoint, aws_access_key_id=access, aws_secret_access_key=secret,
    config=Config(request_checksum_calculation="when_required", response_checksum_validation="when_required",
                  retries={"total_max_attempts": 1}),
)
where = {"Bucket": "jobs", "Key": name}
parts = [os.urandom(5 << 20), os.urandom(5 << 20), os.urandom(12345)]
upload = client.create_multipart_upload(**where)["UploadId"]
def send(number):
    return client.upload_part(**where, UploadId=upload, PartNumber=number, Body=parts[number - 1])["ETag"]
with ThreadPoolExecutor() as pool:
    tags = list(pool.map(send, (1, 2, 3)))
done = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, 1)]
client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": done})
got = client.get_object(**where)["Body"].read()
print("equal" if hashlib.sha256(got).digest() == hashlib.sha256(b"".join(parts)).digest() else "different")
"""


@WAYS
def test_botocore_uploads_in_parts_and_downloads(cls: type[Container], store: S3Server, instance: str) -> None:
    argv = [sys.executable, "-c", MULTIPART, f"http://{HOST}:{store.port}", ACCESS, SECRET, instance]
    printed, seen = job(cls, instance, argv)
    assert printed == "equal\n"
    sent = [line for line in seen if line.startswith("PUT ")]
    assert len(sent) == (0 if cls is Spliced else 3)


def compiled(source: Path, directory: Path) -> Path:
    """Compiles a program in Go."""
    program = directory / source.stem
    subprocess.run(["gccgo", "-O1", "-o", str(program), str(source)], check=True)
    return program


@pytest.mark.parametrize("client", ["undici", "java", "go"])
@pytest.mark.usefixtures("mixed")
def test_ten_thousand_mixed_requests_of_three_clients_arrive_whole(
    client: str, tmp_path: Path, instance: str
) -> None:
    """Three of four requests are spliced, over both families; the others go through a handler."""
    source, start = {
        "undici": (HERE / "mixed.js", "node"),
        "java": (HERE / "Mixed.java", "java -XX:TieredStopAtLevel=1"),
        "go": (HERE / "mixed.go", ""),
    }[client]
    program = source if start else compiled(source, tmp_path)
    hosts = (HOST, "v4.origin.test", "v6.origin.test", "other.test")
    urls = [f"http://{host}:{MIXED_PORT}" for host in hosts]
    seen: list[str] = []

    async def main() -> None:
        async with running_container(Forwarded, instance, seen) as container:
            run = f'cd /tmp && cat >{program.name} && chmod +x {program.name} && {start} ./{program.name} "$@"'
            argv = ["sh", "-c", run, "sh", str(REQUESTS), *urls]
            assert await output(container, argv, program.read_bytes()) == f"{REQUESTS} checked\n"

    trio.run(main)
    assert len(seen) == REQUESTS // len(hosts)
