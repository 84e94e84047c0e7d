"""Measures the cost of a handler: uvicorn (uvloop, httptools) and a handler of ours, each on one core, wrk on another.

wrk uses 64 keep-alive connections; the answer has two bytes.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import trio

from benchmarks.bench import Client, end, forwarded_client, on_one_core, rate, stay_on_one_core, wrk
from benchmarks.results import debian, publish, python, table
from pyinterceptor import App, Container, Response, open_interceptor
from tests.world import World
from tests.world.network import wait_for_port

HOST, PORT = "192.0.2.2", 9200
SECONDS, ROUNDS = 4, 3


class Handled(Container):
    """A container with one host name, which a handler answers."""


@Handled.outbound_by_host("my.kv")
async def answer(request: Any, env: Any, ctx: Any) -> Response:
    return Response("ok")


async def application(scope: Any, receive: Any, send: Any) -> None:
    """The same answer as an ASGI application, for uvicorn."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@contextmanager
def uvicorn() -> Iterator[None]:
    argv = [sys.executable, "-m", "uvicorn", "--no-access-log", "--log-level", "warning", "--lifespan", "off"]
    argv += ["--loop", "uvloop", "--http", "httptools", "--host", HOST, "--port", str(PORT)]
    process = subprocess.Popen(on_one_core([*argv, "benchmarks.handler:application"]))
    try:
        wait_for_port(HOST, PORT)
        yield
    finally:
        end(process)


async def benchmark(client: Client) -> dict[str, float]:
    """Returns the requests per second of both servers: medians of interleaved rounds."""
    rates: dict[str, list[float]] = {"uvicorn": [], "pyinterceptor": []}
    async with open_interceptor(App(containers=[Handled]), instance="bench") as interceptor:
        box = await interceptor.get_container(Handled, "one")
        stay_on_one_core()
        for _ in range(ROUNDS):
            there = wrk(f"http://{HOST}:{PORT}/", seconds=SECONDS)
            rates["uvicorn"].append(rate(await trio.to_thread.run_sync(client.run, there)))
            here = await box.exec(wrk("http://my.kv/", seconds=SECONDS), check=True)
            rates["pyinterceptor"].append(rate(here.stdout.decode()))
    return {name: statistics.median(measured) for name, measured in rates.items()}


def main() -> None:
    with World() as world, forwarded_client(world) as client, uvicorn():
        measured = trio.run(benchmark, client)
    rows = [[name, f"{value:,.0f}", f"{value / measured['uvicorn']:.2f}"] for name, value in measured.items()]
    versions = {"uvicorn": python("uvicorn"), "uvloop": python("uvloop"), "trio": python("trio"), "wrk": debian("wrk")}
    publish("A handler's answer", table(["server", "requests/s", "of uvicorn"], rows), versions)


if __name__ == "__main__":
    main()
