"""The dial guard: addresses to which no name or form in a container's request makes us connect.

The test has a server at each address, so that a refusal is certain: no connection arrives there, and one does if a
rule names the address.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import trio

from pyinterceptor import App, Container, Response, fetch, open_interceptor
from pyinterceptor.errors import DialRefused, FetchError
from tests.e2e.clients import TIME
from tests.kernel.container import family
from tests.starting import started
from tests.world import ORIGIN_V4, ORIGIN_V6, OTHER_V4, OTHER_V6, World

PORT = 8099
OPTIONS = ["-sg", "-m", "20", "-w", "%{http_code}"]  # of curl, for every request
REFUSED = 520
REFUSING = f"""
table inet refusing {{
  chain arriving {{ type filter hook input priority 0; ip6 daddr {OTHER_V6} tcp dport 80 reject with tcp reset; }}
}}
"""
# The host's own addresses, and the forms that are dialled. 127.0.0.0/8 and the unspecified address are loopback.
OWN = {
    "127.0.0.1": "127.0.0.1",
    "127.5.6.7": "127.5.6.7",
    "0.0.0.0": "127.0.0.1",
    "::ffff:127.0.0.1": "127.0.0.1",
    "::1": "::1",
    "::": "::1",
    "192.0.2.2": "192.0.2.2",
    "2001:db8:ffff::2": "2001:db8:ffff::2",
}
# Addresses behind the host, in its network alone: private, shared, metadata services, unique local, NAT64, 6to4.
BEHIND = ("10.1.2.3", "172.16.9.9", "192.168.7.7", "100.64.0.5", "169.254.169.254", "168.63.129.16")
BEHIND_V6 = ("fd12:3456::1", "64:ff9b::7f00:1", "64:ff9b::a01:203", "2002:7f00:1::1", "2002:a01:203::1")
METADATA = ("169.254.169.254", "168.63.129.16", "fd00:ec2::254")


class Guarded(Container):
    """Names no local network. The handler of ask.test fetches a given URL; the rest is spliced."""


class Named(Container):
    """Names all of these addresses."""

    local_networks = [*OWN, *BEHIND, *BEHIND_V6, *METADATA]


class OnePort(Container):
    """Names one service."""

    local_networks = [f"127.0.0.1:{PORT}"]


async def ask(request: Any, env: Any, ctx: Any) -> Response:
    try:
        return await fetch(request.headers["x-url"], local="x-local" in request.headers)
    except DialRefused as error:
        return Response(f"{error}\n", REFUSED)
    except FetchError as error:
        return Response(f"{error}\n", 502)


async def ok(request: Any, env: Any, ctx: Any) -> Response:
    return Response("ok\n")


class Faked(Container):
    """Has a handler where a cloud has its metadata service."""

    outbound_by_host = dict.fromkeys(METADATA, ok)


Guarded.outbound_by_host = Named.outbound_by_host = OnePort.outbound_by_host = {"ask.test": ask}


class Passing(Container):
    """Passes every request on unchanged."""


class PassingNamed(Passing):
    """Passes every request on, and names the host's own addresses."""

    local_networks = [*OWN]


@Passing.outbound
async def pass_on(request: Any, env: Any, ctx: Any) -> Response:
    try:
        return await fetch(request)
    except DialRefused as error:
        return Response(f"{error}\n", REFUSED)


class Inside:
    """A server that answers "inside", and counts its connections."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._thread = threading.Thread(target=self._run)
        self.reached = 0

    def __enter__(self) -> Inside:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.reached += 1
            with connection:
                connection.settimeout(5)
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\ninside\n")


@contextmanager
def inside(world: World, address: str, port: int = PORT) -> Iterator[Inside]:
    """Yields a server at this address, on the host or behind it."""

    def listen() -> socket.socket:
        return socket.create_server((OWN.get(address, address), port), family=family(OWN.get(address, address)))

    if address in OWN:
        with Inside(listen()) as server:
            yield server
        return
    place = [f"{address}/{128 if ':' in address else 32}", "dev", "lo"]
    world.run(["ip", "address", "add", *place, *(["nodad"] if ":" in address else [])])
    try:
        with Inside(world.inside(listen)) as server:
            yield server
    finally:
        world.run(["ip", "address", "del", *place])


@dataclass(frozen=True, slots=True)
class Answer:
    status: int  # 0: no response
    body: str


@dataclass(frozen=True, slots=True)
class Caller:
    container: Any

    async def get(self, url: str, *options: str) -> Answer:
        """Returns the answer to curl in the container."""
        argv = ["curl", *OPTIONS, *options, url]
        said = (await self.container.exec(argv)).stdout.decode()
        return Answer(int(said[-3:]), said[:-3])

    async def fetch(self, url: str, *, local: bool = False) -> Answer:
        """Returns the answer to a handler that fetches this URL."""
        return await self.get("http://ask.test/", "-H", f"x-url: {url}", *(["-H", "x-local: 1"] if local else []))

    async def ending(self, address: str) -> str:
        """Returns the server's output on a connection that is not HTTP, or the error that bash prints for it."""
        script = f"exec 3<>/dev/tcp/{address}/{PORT} && echo 'this is no HTTP' >&3 && cat <&3"
        finished = await self.container.exec(["bash", "-c", script])
        return finished.stdout.decode() or finished.stderr.decode().rpartition(": ")[2]


@asynccontextmanager
async def containers(instance: str, *classes: type[Container]) -> AsyncIterator[list[Caller]]:
    with trio.fail_after(TIME):
        async with open_interceptor(App(containers=list(classes)), instance=instance) as interceptor:
            yield [Caller(await started(interceptor, cls)) for cls in classes]


def authority(address: str) -> str:
    return f"[{address}]:{PORT}" if ":" in address else f"{address}:{PORT}"


def test_fetch_reaches_a_local_address_only_with_local_or_a_rule(world: World, instance: str) -> None:
    async def main() -> None:
        async with containers(instance, Guarded, Named) as (guarded, named):
            for address in (*OWN, *BEHIND, *BEHIND_V6):
                url = f"http://{authority(address)}/"
                with inside(world, address) as server:
                    refused = await guarded.fetch(url)
                    assert (refused.status, server.reached) == (REFUSED, 0), address
                    assert "local to the host: local_networks or fetch(…, local=True) must name it" in refused.body
                    assert await guarded.fetch(url, local=True) == Answer(200, "inside\n"), address
                    assert server.reached == 1
                    assert await named.fetch(url) == Answer(200, "inside\n"), address
                    assert server.reached == 2

    trio.run(main)


@pytest.mark.parametrize("address", ["192.0.2.2", "2001:db8:ffff::2", *BEHIND[:4], *BEHIND_V6])
def test_a_splice_reaches_a_local_address_only_where_a_rule_names_it(
    address: str, world: World, instance: str
) -> None:
    """Tries the addresses that a container's kernel routes out. On other ports than the web's the flow is reset."""

    async def main() -> None:
        with inside(world, address) as server:
            async with containers(instance, Guarded, Named) as (guarded, named):
                url = f"http://{authority(address)}/"
                assert (await guarded.get(url)).status == 0
                assert await guarded.ending(address) == "Connection reset by peer\n"
                assert server.reached == 0
                assert await named.get(url) == Answer(200, "inside\n")
                assert "inside" in await named.ending(address)
                assert server.reached == 2

    trio.run(main)


@pytest.mark.parametrize("address", [*BEHIND[:4], *BEHIND_V6])
def test_a_web_client_gets_the_reason_why_its_splice_is_refused(address: str, world: World, instance: str) -> None:
    """The world's nginx listens at that address, too."""

    async def main() -> None:
        with inside(world, address):
            async with containers(instance, Guarded, Named) as (guarded, named):
                url = f"http://{authority(address).removesuffix(f':{PORT}')}/who"
                before = world.counts()
                refused = await guarded.get(url)
                assert (refused.status, world.counts()) == (REFUSED, before)
                assert "its address is local to the host, and local_networks doesn't name it" in refused.body
                answered = await named.get(url)
                assert (answered.status, address in answered.body) == (200, True)
                assert world.counts() != before

    trio.run(main)


@pytest.mark.parametrize("address", METADATA)
def test_a_metadata_address_is_not_even_accepted_unless_a_rule_names_it(
    address: str, world: World, instance: str
) -> None:
    async def main() -> None:
        with inside(world, address) as server:
            async with containers(instance, Guarded, Named, Faked) as (guarded, named, faked):
                assert await guarded.ending(address) == "Connection refused\n"
                assert (await guarded.fetch(f"http://{authority(address)}/")).status == REFUSED
                assert await faked.get(f"http://{authority(address)}/") == Answer(200, "ok\n")
                assert server.reached == 0
                assert "inside" in await named.ending(address)
                assert await named.fetch(f"http://{authority(address)}/") == Answer(200, "inside\n")
                assert server.reached == 2

    trio.run(main)


def test_a_rule_names_one_port_and_no_other(world: World, instance: str) -> None:
    async def main() -> None:
        with inside(world, "127.0.0.1", PORT + 1) as server:
            async with containers(instance, OnePort) as (caller,):
                with inside(world, "127.0.0.1"):
                    assert await caller.fetch(f"http://127.0.0.1:{PORT}/") == Answer(200, "inside\n")
                url = f"http://127.0.0.1:{PORT + 1}/"
                assert ((await caller.fetch(url)).status, server.reached) == (REFUSED, 0)
                assert await caller.fetch(url, local=True) == Answer(200, "inside\n")

    trio.run(main)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "192.0.2.2", *BEHIND, *BEHIND_V6])
def test_a_name_that_points_inside_is_refused_after_it_is_resolved(address: str, world: World, instance: str) -> None:
    async def main() -> None:
        world.name("pointing.test", address)
        with inside(world, address) as server:
            async with containers(instance, Guarded, Named, Passing) as (guarded, named, passing):
                url = f"http://pointing.test:{PORT}/"
                assert (await guarded.fetch(url)).status == REFUSED
                assert (await passing.get(url)).status == REFUSED
                assert (await guarded.get(url)).status in (0, REFUSED)  # spliced, or its own loopback
                assert server.reached == 0
                assert await guarded.fetch(url, local=True) == Answer(200, "inside\n")
                assert await named.fetch(url) == Answer(200, "inside\n")
                assert server.reached == 2

    trio.run(main)
    world.name("pointing.test")


def test_of_a_name_that_points_both_ways_only_the_way_out_is_tried(world: World, instance: str) -> None:
    """The public address refuses the connection, so that the local one would be next."""

    async def main() -> None:
        world.name("pointing.test", ORIGIN_V4, "10.1.2.3")
        with inside(world, "10.1.2.3") as server:
            async with containers(instance, Guarded, Named) as (guarded, named):
                url = f"http://pointing.test:{PORT}/"
                await guarded.fetch(url)
                await guarded.get(url)
                assert server.reached == 0
                assert await named.fetch(url) == Answer(200, "inside\n")
                assert await named.get(url) == Answer(200, "inside\n")

    trio.run(main)
    world.name("pointing.test")


@pytest.mark.parametrize("destination", [ORIGIN_V4, ORIGIN_V6])
def test_a_host_field_or_absolute_form_changes_no_address(destination: str, world: World, instance: str) -> None:
    """A splice goes to the address that was dialled, not to the host in the request. A handler's fetch is guarded."""
    at = f"http://[{destination}]/who" if ":" in destination else f"http://{destination}/who"

    async def main() -> None:
        with inside(world, "127.0.0.1", 80) as server, inside(world, "::1", 80) as server_v6:
            async with containers(instance, Guarded, Passing, PassingNamed) as (guarded, passing, named):
                for host in ("127.0.0.1", "127.0.0.1:80", "[::ffff:127.0.0.1]", "[::1]"):
                    field = ["-H", f"Host: {host}"]
                    both = ["--request-target", f"http://{host}/who", *field]
                    spliced = await guarded.get(at, *field)
                    assert (spliced.status, destination in spliced.body) == (200, True)
                    spliced = await guarded.get(at, *both)
                    assert spliced.status == REFUSED or (spliced.status == 200 and destination in spliced.body)
                    for caller in (guarded, passing):
                        assert (await caller.get(at, "--request-target", f"http://{host}/who")).status == 400
                    assert (await passing.get(at, *field)).status == REFUSED
                    assert (await passing.get(at, *both)).status == REFUSED
                    assert (server.reached, server_v6.reached) == (0, 0)
                    # The control: if a rule names the address, this handler reaches it.
                    assert await named.get(at, *field) == Answer(200, "inside\n")
                    assert await named.get(at, *both) == Answer(200, "inside\n")
                    assert server.reached + server_v6.reached == 2
                    server.reached = server_v6.reached = 0

    trio.run(main)


def test_a_kept_connection_is_under_the_guard_of_the_policy_of_the_moment(world: World, instance: str) -> None:
    """The world's nginx keeps connections open."""

    class Changing(Container):
        """May reach a local address until its rules change."""

        local_networks = ["10.1.2.3"]

    Changing.outbound_by_host = {"ask.test": ask}

    async def main() -> None:
        with inside(world, "10.1.2.3"), trio.fail_after(TIME):
            async with open_interceptor(App(containers=[Changing]), instance=instance) as interceptor:
                caller = Caller(await started(interceptor, Changing))
                before = world.counts().syns
                for _ in range(2):
                    assert (await caller.fetch("http://10.1.2.3/who")).status == 200
                assert world.counts().syns == before + 1  # the connection was used again
                Changing.local_networks = []
                await interceptor.replace_policy(Changing)
                assert (await caller.fetch("http://10.1.2.3/who")).status == REFUSED
                Changing.local_networks = ["10.1.2.3"]
                await interceptor.replace_policy(Changing)
                assert (await caller.fetch("http://10.1.2.3/who")).status == 200
                assert world.counts().syns == before + 2  # that connection was closed

    trio.run(main)


@pytest.mark.parametrize("is_ruled", [True, False])
def test_a_passed_on_request_does_not_bypass_the_rule_of_another_address(
    is_ruled: bool, world: World, instance: str
) -> None:
    """The host's v6 address refuses connections, and the world's nginx is at its v4 address."""

    class Ruled(Container):
        """nginx's address has a handler if `is_ruled`. A handled request hands the connection over to Python."""

    Ruled.outbound_by_host = {"my.kv": ok} | ({OTHER_V4: ok} if is_ruled else {})

    async def main() -> None:
        async with containers(instance, Ruled) as (caller,):
            url = f"http://[{OTHER_V6}]/who"
            got = await caller.get(url, "-H", "Host: my.kv", url, "--next", *OPTIONS, "-H", "Host: two.test")
            handled, _, passed = got.body.partition("\n200")
            assert (handled, got.status, OTHER_V4 in passed) == (("ok", 502, False) if is_ruled else ("ok", 200, True))

    world.name("two.test", OTHER_V6, OTHER_V4)
    world.run(["nft", "-f", "-"], REFUSING)
    try:
        trio.run(main)
    finally:
        world.run(["nft", "delete", "table", "inet", "refusing"])
        world.name("two.test")


def test_a_redirect_reaches_a_local_address_only_if_a_rule_names_it(world: World, instance: str) -> None:
    async def main() -> None:
        async with containers(instance, Guarded, Named) as (guarded, named):
            for address in ("127.0.0.1", "::1", "192.0.2.2", "10.1.2.3", "64:ff9b::7f00:1"):
                with inside(world, address) as server:
                    url = f"http://v4.origin.test/redirect?to=http://{authority(address)}/"
                    assert (await guarded.fetch(url)).status == REFUSED, address
                    assert server.reached == 0
                    # local=True for one URL does not extend to its redirects.
                    assert (await guarded.fetch(url, local=True)).status == REFUSED, address
                    assert server.reached == 0
                    assert await named.fetch(url) == Answer(200, "inside\n"), address
                    assert server.reached == 1
            public = await guarded.fetch("http://v4.origin.test/redirect?to=http://v6.origin.test/who")
            assert public.body.split()[:2] == ["v6.origin.test", ORIGIN_V6]

    trio.run(main)
