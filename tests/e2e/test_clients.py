"""Real clients in a container, through a handler and through a splice, over both families."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
import trio

from pyinterceptor import Container, Response, fetch
from pyinterceptor.relay.relay import Options
from tests.e2e.clients import CLIENTS, output, running_container
from tests.world import ORIGIN_V4, ORIGIN_V6, OTHER_V4, OTHER_V6, World
from tests.world.world import run


class Handled(Container):
    """Some hosts have a handler; the rest is spliced."""


@Handled.outbound_by_host("my.kv", OTHER_V4, OTHER_V6)
async def answer(request: Any, env: Any, ctx: Any) -> Response:
    env.seen.append(f"{request.method} {request.url.host}")
    return Response(f"handled {request.url.path} {len(await request.bytes())}\n")


class Passing(Container):
    """A handler passes every request on unchanged."""


@Passing.outbound
async def pass_on(request: Any, env: Any, ctx: Any) -> Response:
    env.seen.append(f"{request.method} {request.url.path}")
    return await fetch(request)


@pytest.fixture
def host_without_v6(world: World) -> Iterator[None]:
    """Removes the host's IPv6 route while the test runs."""
    route = ["default", "via", "2001:db8:ffff::1", "dev", "world0"]
    run(["ip", "-6", "route", "del", *route])
    yield
    run(["ip", "-6", "route", "add", *route])


@pytest.mark.parametrize("client", CLIENTS)
def test_a_handler_answers_every_client_by_name_and_over_both_families(
    client: str, world: World, instance: str
) -> None:
    seen: list[str] = []

    async def main() -> None:
        async with running_container(Handled, instance, seen) as container:
            for host in ("my.kv", OTHER_V4, f"[{OTHER_V6}]"):
                assert await output(container, [*CLIENTS[client], f"http://{host}/greeting"]) == "handled /greeting 0\n"

    before = world.counts().syns
    trio.run(main)
    assert len(seen) == 3
    assert world.counts().syns == before  # no connection left the host


@pytest.mark.parametrize("client", CLIENTS)
def test_every_client_reaches_the_origin_through_a_splice_over_both_families(
    client: str, world: World, instance: str
) -> None:
    seen: list[str] = []

    async def main() -> None:
        async with running_container(Handled, instance, seen) as container:
            for host, address in (("v4.origin.test", ORIGIN_V4), ("v6.origin.test", ORIGIN_V6)):
                answer = await output(container, [*CLIENTS[client], f"http://{host}/who"])
                assert answer.split()[:2] == [host, address]

    trio.run(main)
    assert seen == []


@pytest.mark.parametrize("client", CLIENTS)
def test_a_name_with_a_dead_v6_address_is_reached_over_v4(client: str, world: World, instance: str) -> None:
    async def main() -> None:
        async with running_container(Handled, instance, []) as container:
            answer = await output(container, [*CLIENTS[client], "http://halfdead.test/who"])
            assert answer.split()[:2] == ["halfdead.test", ORIGIN_V4]

    trio.run(main)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.usefixtures("host_without_v6")
def test_every_client_connects_from_a_host_without_v6(client: str, instance: str) -> None:
    async def main() -> None:
        async with running_container(Handled, instance, []) as container:
            answer = await output(container, [*CLIENTS[client], "http://origin.test/who"])
            assert answer.split()[:2] == ["origin.test", ORIGIN_V4]
            assert await output(container, [*CLIENTS[client], "http://my.kv/greeting"]) == "handled /greeting 0\n"

    trio.run(main)


@pytest.mark.parametrize("cls", [Handled, Passing], ids=["spliced", "handled"])
def test_git_clones_over_http(cls: type[Container], world: World, instance: str) -> None:
    seen: list[str] = []

    async def main() -> None:
        async with running_container(cls, instance, seen) as container:
            for host in ("v4.origin.test", "v6.origin.test"):
                await output(container, ["git", "clone", "-q", f"http://{host}/git/project.git", f"/tmp/{host}"])
                assert await output(container, ["cat", f"/tmp/{host}/file.txt"]) == "cloned from the world\n"

    trio.run(main)
    clone = ["GET /git/project.git/info/refs", *["POST /git/project.git/git-upload-pack"] * 2]  # ls-refs and fetch
    assert seen == (clone * 2 if cls is Passing else [])


@pytest.mark.parametrize("cls", [Handled, Passing], ids=["spliced", "handled"])
def test_the_large_download_arrives_whole(cls: type[Container], world: World, instance: str) -> None:
    async def main() -> None:
        async with running_container(cls, instance, []) as container:
            command = "curl -sS http://v4.origin.test/large.bin | sha256sum"
            assert (await output(container, ["sh", "-c", command])).split()[0] == world.servers.large_sha256

    trio.run(main)


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
@pytest.mark.parametrize("cls", [Handled, Passing], ids=["spliced", "handled"])
def test_an_upload_arrives_whole(cls: type[Container], framing: str, world: World, instance: str) -> None:
    body = bytes(range(256)) * 12_000
    header = ["-H", "Transfer-Encoding: chunked"] if framing == "chunked" else []

    async def main() -> None:
        async with running_container(cls, instance, []) as container:
            for host in ("v4.origin.test", "v6.origin.test"):
                argv = ["curl", "-sS", "-T", "-", *header, f"http://{host}/upload"]
                if framing == "content-length":
                    argv = ["curl", "-sS", "--data-binary", "@-", f"http://{host}/upload"]
                assert await output(container, argv, body) == f"{len(body)} {hashlib.sha256(body).hexdigest()}\n"

    trio.run(main)


def test_redis_speaks_through_a_splice(world: World, instance: str) -> None:
    async def main() -> None:
        async with running_container(Handled, instance, []) as container:
            for host in ("v4.origin.test", "v6.origin.test"):
                assert await output(container, ["redis-cli", "-h", host, "set", "key", host]) == "OK\n"
                assert await output(container, ["redis-cli", "-h", host, "get", "key"]) == f"{host}\n"

    trio.run(main)


def test_ssh_speaks_through_a_splice(world: World, instance: str) -> None:
    key = world.servers.ssh_key.read_bytes()
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]

    async def main() -> None:
        async with running_container(Handled, instance, []) as container:
            await output(container, ["sh", "-c", "umask 077; cat >/tmp/key"], key)
            for host in ("v4.origin.test", "v6.origin.test"):
                argv = ["ssh", *options, "-i", "/tmp/key", f"root@{host}", "echo over $SSH_CONNECTION"]
                words = (await output(container, argv)).split()
                assert words[0] == "over"
                assert words[3] == (ORIGIN_V4 if host.startswith("v4") else ORIGIN_V6)

    trio.run(main)


@pytest.mark.parametrize("cls", [Handled, Passing], ids=["no rule", "catch-all"])
def test_a_server_that_speaks_first_is_heard_at_once(cls: type[Container], world: World, instance: str) -> None:
    """The relay does not wait for the client's first bytes, which would take 5 s here."""

    async def main() -> None:
        async with running_container(cls, instance, [], Options(sniff_wait=5.0)) as container:
            for host in ("v4.origin.test", "v6.origin.test"):
                script = f'exec 3<>/dev/tcp/{host}/25; head -n 1 <&3; echo "and back" >&3; head -n 1 <&3'
                started = trio.current_time()
                answer = await output(container, ["bash", "-c", script])
                assert trio.current_time() - started < 5
                assert answer == "220 the world greets first\r\nand back\n"

    trio.run(main)
