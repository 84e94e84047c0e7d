"""The main job on real clients: handlers, a refusal, a pass-through, a block. Run it with `./dev demo`.

It stands in a network namespace of its own, beside a small internet with a real nginx (tests/world), so the
machine's own network is neither used nor changed.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import trio

from pyinterceptor import App, Container, FlowRecord, Response, fetch, open_interceptor
from tests.world import World
from tests.world.image import busybox_image, remove_image

GREETINGS = {"greeting": "hello"}
IMAGE = "localhost/pyinterceptor-demo"
SIZE = 200 * 1024 * 1024  # bytes of the download


class Sandbox(Container):
    """Every HTTP request goes to a handler."""

    enable_internet = False


class Open(Container):
    """One name is handled; everything else passes."""


class Closed(Container):
    """One name is handled; nothing else is allowed."""

    enable_internet = False


class Podman(Open):
    """The rules of Open, in a real podman container."""

    image = IMAGE


class ClosedPodman(Closed):
    """The rules of Closed, in a real podman container."""

    image = IMAGE


@Sandbox.outbound_by_host("my.kv")
@Open.outbound_by_host("my.kv")
@Closed.outbound_by_host("my.kv")
async def greetings(request: Any, env: Any, ctx: Any) -> Response:
    value = GREETINGS.get(request.url.path.lstrip("/"))
    return Response(value or "", status=200 if value is not None else 404)


@Sandbox.outbound
async def everything_else(request: Any, env: Any, ctx: Any) -> Response:
    if request.method != "GET":
        return Response("Method Not Allowed", status=405)
    return await fetch(request)


URLLIB = """
import sys, urllib.request
answer = urllib.request.urlopen(sys.argv[1])
print(answer.status, len(answer.read()))
"""
NODE = "fetch(process.argv[1]).then(async (a) => console.log(a.status, (await a.arrayBuffer()).byteLength))"
CURL = ["curl", "-sS", "-m", "60", "-o", "/dev/null", "-w", "%{http_code} %{size_download}"]
PYTHON = ["/usr/bin/python3", "-c", URLLIB]
WGET = ["sh", "-c", 'wget -qO- "$1" | wc -c | sed "s/^/200 /"', "wget"]


@dataclass(frozen=True, slots=True)
class Call:
    """A request and the outcome that it must have. `host` finds the record of its flow; "" if it makes no flow."""

    shown: str
    argv: Sequence[str]
    host: str
    verdict: str
    status: str
    size: int | None = None
    reaches_origin: bool = False


KV, PAGE, LARGE = "http://my.kv/greeting", "http://origin.test/", "http://origin.test/large.bin"
BARE = "http://203.0.113.10/"


def calls() -> dict[type[Container], list[Call]]:
    """What is asked, by container."""
    post = [*CURL, "-d", "x=1", PAGE]
    asked: dict[type[Container], list[Call]] = {
        Sandbox: [
            Call(f"curl {KV}", [*CURL, KV], "my.kv", "HANDLE", "200", 5),
            Call(f"urllib {KV}", [*PYTHON, KV], "my.kv", "HANDLE", "200", 5),
            Call(f"node fetch {KV}", ["node", "-e", NODE, KV], "my.kv", "HANDLE", "200", 5),
            Call(f"curl -d x=1 {PAGE}", post, "origin.test", "HANDLE", "405"),
            Call(f"curl {PAGE} (fetched)", [*CURL, PAGE], "origin.test", "HANDLE", "200", None, True),
        ],
        Open: [
            Call(f"curl {KV}", [*CURL, KV], "my.kv", "HANDLE", "200", 5),
            Call(f"curl {PAGE}", [*CURL, PAGE], "origin.test", "SPLICE", "200", None, True),
            Call(f"urllib {PAGE}", [*PYTHON, PAGE], "origin.test", "SPLICE", "200", None, True),
            Call(f"node fetch {PAGE}", ["node", "-e", NODE, PAGE], "origin.test", "SPLICE", "200", None, True),
            Call(f"curl {LARGE}", [*CURL, LARGE], "origin.test", "SPLICE", "200", SIZE, True),
        ],
        Closed: [
            Call(f"curl {KV}", [*CURL, KV], "my.kv", "HANDLE", "200", 5),
            Call(f"curl {PAGE}", [*CURL, PAGE], "", "no such name", "-"),
            Call(f"curl {BARE}", [*CURL, BARE], "203.0.113.10", "REFUSE", "520"),
            Call("redis-cli 203.0.113.10", ["redis-cli", "-h", "203.0.113.10", "ping"], "203.0.113.10", "REFUSE", "-"),
        ],
    }
    if shutil.which("podman") and shutil.which("runc"):
        asked[Podman] = [
            Call(f"wget {KV}", [*WGET, KV], "my.kv", "HANDLE", "200", 5),
            Call(f"wget {PAGE}", [*WGET, PAGE], "origin.test", "SPLICE", "200", None, True),
            Call(f"wget {LARGE}", [*WGET, LARGE], "origin.test", "SPLICE", "200", SIZE, True),
        ]
        asked[ClosedPodman] = [
            Call(f"wget {KV}", [*WGET, KV], "my.kv", "HANDLE", "200", 5),
            Call(f"wget {BARE}", ["wget", "-qO-", BARE], "203.0.113.10", "REFUSE", "520"),
        ]
    return asked


async def verdict_on(host: str, flows: AsyncIterator[FlowRecord]) -> str:
    """The verdict on the next flow to this host that ends."""
    with trio.move_on_after(5):
        async for flow in flows:
            if host == (flow.host or str(flow.destination[0])):
                return flow.verdict.name
    return "?"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a call: as the client saw it, as the flow's record has it, as the origin counted it."""

    verdict: str
    status: str
    size: int
    seconds: float
    connections: int  # that arrived in the world meanwhile

    def is_as_asked(self, call: Call) -> bool:
        return (
            (self.verdict, self.status) == (call.verdict, call.status)
            and call.size in (None, self.size)
            and (self.connections > 0) == call.reaches_origin
        )


async def outcome(container: Any, call: Call, flows: AsyncIterator[FlowRecord], world: World) -> Outcome:
    """Makes the call and waits for the record of its flow."""
    before, started = world.counts().syns, trio.current_time()
    finished = await container.exec(call.argv)
    seconds = trio.current_time() - started
    status, _, size = finished.stdout.decode().strip().partition(" ")
    if not size.isdecimal() or status == "000":
        told = re.search(r"HTTP/1\.1 (\d+)", finished.stderr.decode())  # busybox wget says a refusal there
        status, size = (told[1] if told else "-"), "0"
    verdict = await verdict_on(call.host, flows) if call.host else "no such name"
    return Outcome(verdict, status, int(size), seconds, world.counts().syns - before)


async def demonstrate(world: World) -> int:
    """Prints the table; returns how many calls did not end as they should."""
    asked, wrong = calls(), 0
    print(f"{'container':<13} {'request':<47} {'verdict':<13} {'status':<6} {'bytes':>11} {'time':>8}")
    async with (
        open_interceptor(App(containers=list(asked)), instance="demo") as opened,
        opened.records(FlowRecord) as flows,
    ):
        for cls, made in asked.items():
            container = await opened.get_container(cls, "one")
            for call in made:
                got = await outcome(container, call, flows, world)
                good = got.is_as_asked(call)
                wrong += not good
                print(
                    f"{cls.__name__:<13} {call.shown:<47} {got.verdict:<13} {got.status:<6} {got.size:>11,} "
                    f"{got.seconds:>6.2f} s{'' if good else f'   WRONG: wanted {call}, got {got}'}",
                    flush=True,
                )
    return wrong


PROVEN = """
Proven: my.kv exists in no DNS, and a Python handler outside the container answered every client that asked for it;
the catch-all refused a POST that never reached the origin, and fetched a page; a page and 200 MiB passed through
to a real nginx without Python; what nothing allows got no address, a readable 520 or a reset, and not one
connection attempt of it arrived in the world, where the calls beside it did.{podman}"""
WITH_PODMAN = "\nThe same held in a real podman container."
WITHOUT_PODMAN = "\nNot shown: podman is not installed."


def main() -> int:
    has_podman = bool(shutil.which("podman") and shutil.which("runc"))
    with World() as world, ExitStack() as stack:
        if has_podman:
            busybox_image(IMAGE)
            stack.callback(remove_image, IMAGE)
        wrong = trio.run(demonstrate, world)
    if wrong:
        print(f"\n{wrong} of the calls did not end as they should.")
        return 1
    print(PROVEN.format(podman=WITH_PODMAN if has_podman else WITHOUT_PODMAN))
    return 0


if __name__ == "__main__":
    sys.exit(main())
