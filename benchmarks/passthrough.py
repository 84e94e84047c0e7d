"""Measures the cost of passing traffic through: kernel forwarding, nginx's stream proxy and our splice, in one run.

Bulk: one stream from source.py to sink.py. New connections: wrk closes each after one small answer of the world's
nginx. The client dials nginx's stream proxy directly, so that one has no capturing to do. It has one worker process, as
we do.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import trio

from benchmarks.bench import Client, end, forwarded_client, rate, wrk
from benchmarks.results import debian, publish, table
from pyinterceptor import App, Container, open_interceptor
from pyinterceptor.runtime import Files
from tests.world import ORIGIN_V4, World
from tests.world.network import wait_for_port

HERE = Path(__file__).parent
PORT, PROXIED_PORT, PROXIED_HTTP = 9100, 9101, 9102
HOST = "192.0.2.2"  # the address of nginx's stream proxy
BYTES = 4 * 1024**3  # per round of bulk
SECONDS = 4  # per round of connections
ROUNDS = 3

STREAM = """
load_module modules/ngx_stream_module.so;
daemon off; master_process off; pid {directory}/pid; error_log {directory}/log;
worker_rlimit_nofile 16000;
events {{ worker_connections 8000; }}
stream {{
  proxy_buffer_size 256k;
  server {{ listen {host}:{bulk} backlog=8192; proxy_pass {origin}:{port}; }}
  server {{ listen {host}:{http} backlog=8192; proxy_pass {origin}:80; }}
}}
"""

Run = Callable[[Sequence[str]], Awaitable[str]]


class Passing(Container):
    """A container without rules."""


@contextmanager
def nginx_stream() -> Iterator[None]:
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory, "nginx.conf")
        config.write_text(
            STREAM.format(
                directory=directory, host=HOST, bulk=PROXIED_PORT, http=PROXIED_HTTP, origin=ORIGIN_V4, port=PORT
            )
        )
        process = subprocess.Popen(["nginx", "-p", "/usr/share/nginx", "-c", str(config)])
        try:
            wait_for_port(HOST, PROXIED_HTTP)
            yield
        finally:
            end(process)


async def measure(ways: dict[str, tuple[Run, str, int, int]]) -> dict[str, tuple[float, float]]:
    """Returns Gbit/s and connections per second of each way: medians of interleaved rounds."""
    bulk: dict[str, list[float]] = {name: [] for name in ways}
    connections: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, (run, host, bulk_port, http_port) in ways.items():
            sink = ["/usr/bin/python3", str(HERE / "sink.py"), host, str(bulk_port), str(BYTES)]
            bulk[name].append(float(await run(sink)))
            answer = await run(wrk(f"http://{host}:{http_port}/ok", seconds=SECONDS, close=True))
            connections[name].append(rate(answer))
    return {name: (statistics.median(bulk[name]), statistics.median(connections[name])) for name in ways}


async def benchmark(client: Client) -> dict[str, tuple[float, float]]:
    async def beside(argv: Sequence[str]) -> str:
        return await trio.to_thread.run_sync(client.run, argv)

    async with open_interceptor(App(containers=[Passing]), instance="bench") as interceptor:
        box = await interceptor.get_container(Passing, "one", files=Files(show=(HERE,)))

        async def inside(argv: Sequence[str]) -> str:
            return str((await box.exec(argv, check=True)).stdout.decode())

        return await measure(
            {
                "kernel forwarding": (beside, ORIGIN_V4, PORT, 80),
                "nginx stream": (beside, HOST, PROXIED_PORT, PROXIED_HTTP),
                "pyinterceptor": (inside, ORIGIN_V4, PORT, 80),
            }
        )


def main() -> None:
    with World() as world, forwarded_client(world) as client, nginx_stream():
        source = world.popen([sys.executable, str(HERE / "source.py"), str(PORT)])
        try:
            wait_for_port(ORIGIN_V4, PORT)
            measured = trio.run(benchmark, client)
        finally:
            end(source)
    forwarding, stream = measured["kernel forwarding"], measured["nginx stream"]
    rows = [
        [name, f"{bulk:.1f}", f"{bulk / forwarding[0]:.2f}", f"{new:,.0f}", f"{new / stream[1]:.2f}"]
        for name, (bulk, new) in measured.items()
    ]
    head = ["through", "bulk, Gbit/s", "of forwarding", "new connections/s", "of nginx stream"]
    publish("Passing through", table(head, rows), {"nginx": debian("nginx-light"), "wrk": debian("wrk")})


if __name__ == "__main__":
    main()
