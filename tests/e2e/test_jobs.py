"""Jobs of real tools in a container: package managers, git, an S3 client, and thousands of mixed requests.

Each job runs spliced, through a handler of one host that forwards requests, and through one of all hosts.
"""

from __future__ import annotations

from typing import Any

import pytest
import trio

from pyinterceptor import Container, Response, fetch
from tests.e2e.clients import output, running_container
from tests.world import World
from tests.world.packages import PARTS, write_indexes

HOST = "origin.test"


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
