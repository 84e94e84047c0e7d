"""Names in containers: through every resolver address, under every kind of rule, and dialled by name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from pyinterceptor import App, Container, Response, open_interceptor
from pyinterceptor.dns import names
from pyinterceptor.runtime import Files
from tests.e2e.clients import TIME, output
from tests.starting import started
from tests.world import NAMESERVER_V4, NAMESERVER_V6, ORIGIN_V4, ORIGIN_V6, OTHER_V4, World

SHOWN = Files(show=(Path(__file__).parent, Path(sys.prefix)))
DIG = str(Path(__file__).with_name("dig.py"))
NOBODY_V4, NOBODY_V6 = "192.0.2.99", "2001:db8:9::9"  # addresses without a resolver
DEAD_V4 = "203.0.113.99"  # an address that answers no packet
ECHO = """
import socket, sys
socks = [socket.create_connection((address, 25), timeout=20) for address in sys.argv[2:]]
for sock in socks:
    sock.sendall(sys.argv[1].encode())
    sock.shutdown(socket.SHUT_WR)
for sock in socks:
    print(sock.makefile().read().partition("first\\n")[2])
    sock.close()
"""


HOLD = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20) as sock:
    sock.sendall(b"GET / HTTP/1.1\\r\\nHost: origin.test\\r\\n\\r\\n" if sys.argv[2] == "80" else b"hello\\n")
    assert sock.recv(1)
    print("open")
    sys.stdin.read()
"""

FLOOD = """
import itertools, socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect(("203.0.113.53", 53))
print("flooding", flush=True)
for number in itertools.count():
    name = bytes([10]) + b"%010d" % number + bytes([4]) + b"glob" + bytes([2]) + b"kv" + bytes(1)
    try:
        sock.send(bytes(2) + b"\\1\\0\\0\\1" + bytes(6) + name + b"\\0\\1\\0\\1")
    except ConnectionRefusedError:
        pass
"""
PATIENT = """
import socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect(("203.0.113.53", 53))
sock.settimeout(5)  # as resolv.conf(5) has it
answered = 0
for number in range(100):
    sock.send(number.to_bytes(2, "big") + b"\\1\\0\\0\\1" + bytes(6) + b"\\2my\\2kv\\0\\0\\1\\0\\1")
    try:
        answered += sock.recv(512)[:2] == number.to_bytes(2, "big")
    except TimeoutError:
        break
print(answered)
"""


class Plain(Container):
    """No rules: everything passes, dialled in C."""


class Ruled(Container):
    """Some names are handled, no other name exists."""

    enable_internet = False


class Mixed(Container):
    """The same names are handled, the rest passes."""


class Everything(Container):
    """Every HTTP request is handled, other protocols pass."""


class Closed(Container):
    """Every HTTP request is handled, nothing passes."""

    enable_internet = False


async def answer(request: Any, env: Any, ctx: Any) -> Response:
    return Response(f"handled {request.url.host} for {ctx.container_name}\n")


for ruled in (Ruled, Mixed):
    ruled.outbound_by_host("my.kv", "*.glob.kv", "Bücher.example", "origin.test")(answer)
for caught in (Everything, Closed):
    caught.outbound(answer)


@asynccontextmanager
async def containers(
    cls: type[Container], instance: str, names: Sequence[str] = ("one",), nameservers: Sequence[str] | None = None
) -> AsyncIterator[list[Any]]:
    with trio.fail_after(TIME):
        async with open_interceptor(App(containers=[cls]), instance=instance, nameservers=nameservers) as interceptor:
            yield [await started(interceptor, cls, name, files=SHOWN) for name in names]


async def dig(container: Any, name: str, kind: str = "A", server: str = NAMESERVER_V4, transport: str = "udp") -> str:
    """Returns the code and the records as one line."""
    return (await output(container, [sys.executable, DIG, server, transport, name, kind])).strip()


async def curl(container: Any, url: str, *options: str) -> str:
    return await output(container, ["curl", "-sSg", "-m", "20", *options, url])


async def echo(container: Any, text: str, *hosts: str) -> list[str]:
    """Returns each host's echo after its greeting, with all connections open at once."""
    return (await output(container, ["/usr/bin/python3", "-c", ECHO, text, *hosts])).splitlines()


async def learn(container: Any, name: str, line: str) -> None:
    """Asks until the answer is this one, since an earlier answer is kept for its TTL."""
    while sorted((await dig(container, name)).split()) != sorted(line.split()):
        await trio.lowlevel.checkpoint()


def asked(world: World, *names: str) -> list[tuple[str, str]]:
    """Returns the queries of the world's DNS server for these names."""
    return [(name, kind) for name, kind in world.queries() if name in names]


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("server", [NAMESERVER_V4, NAMESERVER_V6, NOBODY_V4, NOBODY_V6])
def test_every_address_is_a_resolver(server: str, transport: str, world: World, instance: str) -> None:
    async def main() -> None:
        async with containers(Mixed, instance) as [container]:
            for name, kind, line in (
                ("my.kv", "A", "NOERROR 198.18.1.0"),
                ("my.kv", "AAAA", "NOERROR fd70:7969:6e74:1::100"),
                ("my.kv", "TXT", "NOERROR"),
                ("0.1.18.198.in-addr.arpa", "PTR", "NOERROR my.kv."),
                ("v4.origin.test", "A", f"NOERROR {ORIGIN_V4}"),
                ("v6.origin.test", "AAAA", f"NOERROR {ORIGIN_V6}"),
                ("v4.origin.test", "AAAA", "NOERROR"),
                ("gone.test", "A", "NXDOMAIN"),
                ("localhost", "A", "NOERROR 127.0.0.1"),
            ):
                assert await dig(container, name, kind, server, transport) == line

    trio.run(main)


@pytest.mark.parametrize("cls", [Ruled, Mixed])
@pytest.mark.parametrize("name", ["my.kv", "MY.Kv", "my.kv.", "a.b.glob.kv", "bücher.example", "origin.test"])
def test_a_rules_name_is_its_handlers(cls: type[Container], name: str, world: World, instance: str) -> None:
    async def main() -> None:
        async with containers(cls, instance) as [container]:
            page = await output(container, [sys.executable, "-c", URLLIB, f"http://{name}/"])
            assert page.startswith("handled ")

    exact = ["my.kv", "origin.test", "xn--bcher-kva.example"] if cls is Mixed else []  # ours, in the background
    before = asked(world, "my.kv", "origin.test", "a.b.glob.kv", "xn--bcher-kva.example")
    trio.run(main)
    after = asked(world, "my.kv", "origin.test", "a.b.glob.kv", "xn--bcher-kva.example")
    assert {name for name, _ in after[len(before) :]} <= set(exact)


URLLIB = """
import sys, urllib.request
url = sys.argv[1].encode().decode("utf-8")
host = url.split("/")[2].encode("idna").decode()
print(urllib.request.urlopen(f"http://{host}/", timeout=20).read().decode(), end="")
"""


@pytest.mark.parametrize(("cls", "lines"), [
    (Ruled, ["NXDOMAIN", "NXDOMAIN", "NXDOMAIN"]),
    (Mixed, [f"NOERROR {OTHER_V4}", "NOERROR", "NXDOMAIN"]),
    (Closed, ["NOERROR 198.18.1.0", "NOERROR", "NOERROR 198.18.1.1"]),
    (Everything, ["NOERROR 198.18.1.0", "NOERROR", "NOERROR 198.18.1.1"]),
])
def test_only_what_passes_is_asked_upstream(
    cls: type[Container], lines: list[str], world: World, instance: str
) -> None:
    async def main() -> None:
        async with containers(cls, instance) as [container]:
            questions = [("other.test", "A"), ("other.test", "TXT"), ("secret.data.test", "A")]
            assert [await dig(container, *question) for question in questions] == lines

    before = len(world.queries())
    trio.run(main)
    new = [question for question in world.queries()[before:] if question[0] != "ipv4only.arpa"]  # our own (RFC 7050)
    assert ({("other.test", "A"), ("other.test", "TXT"), ("secret.data.test", "A")} <= set(new)) is (cls is Mixed)
    assert bool(new) is (cls is Mixed)


def test_each_container_has_its_own_names_and_anothers_address_reaches_nothing(world: World, instance: str) -> None:
    async def main() -> None:
        async with containers(Everything, instance, ["a", "b"]) as [a, b]:
            assert await dig(a, "origin.test") == "NOERROR 198.18.1.0"
            assert await dig(b, "first.kv") == "NOERROR 198.18.1.0"
            assert await dig(b, "origin.test") == "NOERROR 198.18.1.1"
            assert await curl(a, "http://origin.test/") == "handled origin.test for a\n"
            assert await curl(b, "http://first.kv/") == "handled first.kv for b\n"
            assert await echo(a, "hello", "198.18.1.0") == ["hello"]
            assert await echo(b, "hello", "198.18.1.1") == ["hello"]
            for container, address in ((a, "198.18.1.1"), (b, "198.18.1.0")):
                refused = await container.exec(["/usr/bin/python3", "-c", ECHO, "hello", address])
                assert b"Error" in refused.stderr

    trio.run(main)


def test_flows_that_wait_for_one_name_ask_for_it_once_and_anew_when_it_expires(world: World, instance: str) -> None:
    world.name("short.test", ORIGIN_V4, ORIGIN_V6, ttl=1)

    async def main() -> None:
        async with containers(Everything, instance) as [container]:
            await dig(container, "short.test")
            assert asked(world, "short.test") == []
            assert await echo(container, "all at once", *["198.18.1.0"] * 20) == ["all at once"] * 20
            assert sorted(asked(world, "short.test")) == [("short.test", "A"), ("short.test", "AAAA")]
            while len(asked(world, "short.test")) < 4:
                assert await echo(container, "again", "198.18.1.0") == ["again"]

    trio.run(main)


def test_a_name_without_address_resets_the_flows_that_dial_it(world: World, instance: str) -> None:
    async def main() -> None:
        async with containers(Everything, instance) as [container]:
            assert await dig(container, "gone.test") == "NOERROR 198.18.1.0"
            began = trio.current_time()
            refused = await container.exec(["/usr/bin/python3", "-c", ECHO, "hello", "198.18.1.0"])
            assert b"ConnectionResetError" in refused.stderr
            assert trio.current_time() - began < 10
            world.name("gone.test", ORIGIN_V4, ttl=1)
            assert await echo(container, "hello", "198.18.1.0") == ["hello"]  # a denial without SOA isn't kept

    try:
        trio.run(main)
    finally:
        world.name("gone.test")


def test_a_name_that_was_asked_for_one_family_is_dialled_over_the_other(world: World, instance: str) -> None:
    world.name("sixth.test", DEAD_V4, ORIGIN_V6)
    world.name("fourth.test", ORIGIN_V4, "2001:db8:dead::1")

    async def main() -> None:
        async with containers(Plain, instance) as [container]:
            assert (await curl(container, "http://sixth.test/who", "-4")).split()[:2] == ["sixth.test", ORIGIN_V6]
            assert (await curl(container, "http://fourth.test/who", "-6")).split()[:2] == ["fourth.test", ORIGIN_V4]
            argv = ["curl", "-sS", "-m", "2", f"http://{DEAD_V4}/who", "-H", "Host: nobody.test"]
            by_address = await container.exec(argv)
            assert by_address.returncode == 0 or by_address.returncode == 28

    trio.run(main)


def test_an_address_that_a_name_has_left_reaches_its_new_ones(world: World, instance: str) -> None:
    world.name("moving.test", DEAD_V4, ttl=1)

    async def main() -> None:
        async with containers(Plain, instance) as [container]:
            assert await dig(container, "moving.test") == f"NOERROR {DEAD_V4}"
            world.name("moving.test", OTHER_V4, ttl=1)
            await learn(container, "moving.test", f"NOERROR {OTHER_V4}")
            assert (await curl(container, "http://moving.test/who")).split()[:2] == ["moving.test", OTHER_V4]
            old = await curl(container, "http://moving.test/who", "--resolve", f"moving.test:80:{DEAD_V4}")
            assert old.split()[:2] == ["moving.test", OTHER_V4]

    trio.run(main)


def test_an_answer_that_comes_after_the_connection_disturbs_it_not(world: World, instance: str) -> None:
    async def main() -> None:
        async with containers(Plain, instance) as [container]:
            script = (
                f"exec 3<>/dev/tcp/{ORIGIN_V4}/7; echo before >&3; head -n 1 <&3;"
                f'{sys.executable} {DIG} {NAMESERVER_V4} udp origin.test A; echo after >&3; head -n 1 <&3'
            )
            lines = (await output(container, ["bash", "-c", script])).splitlines()
            assert lines == ["before", f"NOERROR {ORIGIN_V4}", "after"]
            assert await echo(container, "by address", ORIGIN_V4) == ["by address"]

    trio.run(main)


def test_a_name_with_anothers_address_does_not_get_its_connections(world: World, instance: str) -> None:
    world.name("victim.test", DEAD_V4, ttl=1)
    world.name("evil.test", DEAD_V4, ORIGIN_V6, ttl=1)

    async def main() -> None:
        async with containers(Plain, instance) as [container]:
            assert await dig(container, "victim.test") == f"NOERROR {DEAD_V4}"
            assert (await curl(container, "http://evil.test/who", "-4")).split()[:2] == ["evil.test", ORIGIN_V6]
            timed_out = await container.exec(["curl", "-sS", "-m", "3", "http://victim.test/who"])
            assert (timed_out.returncode, timed_out.stdout) == (28, b"")
            world.name("victim.test", DEAD_V4, ORIGIN_V4, ttl=1)
            await learn(container, "victim.test", f"NOERROR {DEAD_V4} {ORIGIN_V4}")
            assert (await curl(container, "http://victim.test/who", "-4")).split()[:2] == ["victim.test", ORIGIN_V4]

    trio.run(main)


@pytest.mark.parametrize("port", [25, 80], ids=["a flow in C", "a flow with Python"])
def test_an_address_that_a_flow_is_open_to_is_not_given_to_another_name(
    port: int, world: World, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "NAMES_MAX", 1)
    monkeypatch.setattr(names, "REUSE_AFTER", 0.0)

    async def main() -> None:
        async with containers(Everything, instance) as [container]:
            assert await dig(container, "origin.test") == "NOERROR 198.18.1.0"
            assert await dig(container, "second.test") == "NOERROR 198.18.1.0"
            assert await dig(container, "origin.test") == "NOERROR 198.18.1.0"
            argv = ["/usr/bin/python3", "-uc", HOLD, "198.18.1.0", str(port)]
            async with aclosing(await container.start(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)) as held:
                assert (await held.stdout.receive_some()).startswith(b"open")
                assert await dig(container, "second.test") == "SERVFAIL"
                assert await dig(container, "origin.test") == "NOERROR 198.18.1.0"
            while (line := await dig(container, "second.test")) == "SERVFAIL":
                await trio.lowlevel.checkpoint()
            assert line == "NOERROR 198.18.1.0"

    trio.run(main)


def test_a_container_that_floods_its_resolver_takes_no_other_ones_answers(world: World, instance: str) -> None:
    async def main() -> None:
        async with containers(Mixed, instance, ["flooding", "patient"]) as [flooding, patient]:
            argv = ["/usr/bin/python3", "-c", FLOOD]
            async with aclosing(await flooding.start(argv, stdout=subprocess.PIPE)) as flood:
                assert (await flood.stdout.receive_some()).startswith(b"flooding")
                assert await output(patient, ["/usr/bin/python3", "-c", PATIENT]) == "100\n"
                assert flood.returncode is None

    trio.run(main)


OWN_NAME = """
import socket
name = socket.gethostname()
print(name, sorted({info[4][0] for info in socket.getaddrinfo(name, 0)}))
"""


OWN_SERVER = """
import socket
name = socket.gethostname()
with socket.create_server((socket.gethostbyname(name), 0)) as server:
    socket.create_connection((name, server.getsockname()[1])).close()
    print("connected")
"""


@pytest.mark.parametrize("cls", [Plain, Ruled, Everything, Closed])
def test_the_containers_own_host_name_is_its_own_and_never_synthetic(
    cls: type[Container], world: World, instance: str
) -> None:
    async def main() -> None:
        async with containers(cls, instance, ["My-box"]) as [container]:
            name, _, addresses = (await output(container, ["/usr/bin/python3", "-c", OWN_NAME])).partition(" ")
            assert name == "My-box"
            assert "198.18." not in addresses
            connected = await output(container, ["/usr/bin/python3", "-c", OWN_SERVER])
            assert connected == "connected\n"

    before = asked(world, "my-box")
    trio.run(main)
    assert asked(world, "my-box") == before
