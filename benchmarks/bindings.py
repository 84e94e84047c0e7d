"""Measures the cost of KV and R2.

KV: wrk with 64 keep-alive connections calls a handler that gets, or puts, a value of 100 bytes. The handler uses the
embedded KV, plain sqlite3 (which blocks the loop while it waits for the disk), a KV on Redis, or no store at all.
R2: one stream of a large object through a handler, compared with nginx and the same file.
"""

from __future__ import annotations

import re
import sqlite3
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import trio

from benchmarks.bench import Client, end, forwarded_client, on_one_core, rate, stay_on_one_core, wrk
from benchmarks.results import debian, publish, table
from pyinterceptor import KV, App, Container, R2Bucket, Response, open_interceptor
from pyinterceptor.paths import STATE
from pyinterceptor.runtime import Files
from tests.world import World
from tests.world.network import wait_for_port
from tests.world.world import run

HERE = Path(__file__).parent
HOST, NGINX_PORT, REDIS_PORT = "192.0.2.2", 9300, 9301
SECONDS, ROUNDS = 4, 3
VALUE = b"v" * 100
SIZE = 2 * 1024**3  # bytes of the object
PUT = 'wrk.method = "PUT"\nwrk.body = string.rep("v", 100)\n'
NGINX = """
daemon off; master_process off; pid {directory}/pid; error_log {directory}/log;
events {{ worker_connections 1000; }}
http {{
  access_log off; sendfile on; tcp_nopush on;
  client_body_temp_path {directory}/t1; proxy_temp_path {directory}/t2; fastcgi_temp_path {directory}/t3;
  uwsgi_temp_path {directory}/t4; scgi_temp_path {directory}/t5;
  server {{ listen {host}:{port}; root {root}; }}
}}
"""


class Benched(Container):
    """A container with a host name for each engine."""


@Benched.outbound_by_host("nothing.kv")
async def nothing(request: Any, env: Any, ctx: Any) -> Response:
    return Response(VALUE)


@Benched.outbound_by_host("embedded.kv")
async def embedded(request: Any, env: Any, ctx: Any) -> Response:
    return await _kept(request, env.EMBEDDED)


@Benched.outbound_by_host("redis.kv")
async def redis(request: Any, env: Any, ctx: Any) -> Response:
    return await _kept(request, env.REDIS)


@Benched.outbound_by_host("sqlite3.kv")
async def plain(request: Any, env: Any, ctx: Any) -> Response:
    if request.method == "GET":
        found = env.PLAIN.execute("SELECT value FROM entries WHERE key = ?", (request.url.path[1:],)).fetchone()
        return Response(found[0])
    query = "INSERT INTO entries VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
    env.PLAIN.execute(query, (request.url.path[1:], await request.bytes()))
    return Response()


@Benched.outbound_by_host("my.r2")
async def objects(request: Any, env: Any, ctx: Any) -> Response:
    return Response((await env.BUCKET.get(request.url.path[1:])).body)


async def _kept(request: Any, kv: Any) -> Response:
    if request.method == "GET":
        return Response(await kv.get(request.url.path[1:], type="bytes"))
    await kv.put(request.url.path[1:], request.body)
    return Response()


def main() -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as kept, World() as world, forwarded_client(world) as client:
        STATE.mkdir(exist_ok=True)
        run(["mount", "--bind", kept, str(STATE)])  # a real disk, because the tests' state is in memory
        with redis_server(kept), nginx(kept), closing(plain_sqlite(kept)) as database:
            bindings = {
                "EMBEDDED": KV(),
                "REDIS": KV(f"redis://127.0.0.1:{REDIS_PORT}"),
                "PLAIN": database,
                "BUCKET": R2Bucket(),
            }
            trio.run(benchmark, App(containers=[Benched], bindings=bindings), client, Path(kept))
        run(["umount", str(STATE)])


async def benchmark(app: App, client: Client, kept: Path) -> None:
    async with open_interceptor(app, instance="bench") as interceptor:
        box = await interceptor.get_container(Benched, "one", files=Files(show=(HERE,)))
        await interceptor.env.BUCKET.put("large", _large())
        await trio.to_thread.run_sync(_large_file, kept / "large")
        publish("A body out of R2", await _bulk(box, client), {"nginx": debian("nginx-light")})
        stay_on_one_core()
        versions = {"redis": debian("redis-server"), "sqlite": sqlite3.sqlite_version, "wrk": debian("wrk")}
        publish("A value out of KV, and into it", await _values(box, kept), versions)


async def _values(box: Any, kept: Path) -> str:
    """Returns a table of requests per second and of their 99th percentile: medians of interleaved rounds."""
    script = kept / "put.lua"
    script.write_text(PUT)
    engines = ["nothing", "embedded", "sqlite3", "redis"]
    measured: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(ROUNDS):
        for engine in engines:
            for way, options in (("put", ["-s", str(script)]), ("get", [])):
                asked = wrk(f"http://{engine}.kv/key", seconds=SECONDS)
                done = await box.exec([*asked[:-1], "--latency", *options, asked[-1]], check=True)
                measured.setdefault((engine, way), []).append(_measured(done.stdout.decode()))
    rows = []
    for engine in engines:
        row = [engine]
        for way in ("get", "put"):
            rounds = measured[engine, way]
            row += [f"{statistics.median(one[at] for one in rounds):,.{at}f}" for at in (0, 1)]
        rows.append(row)
    return table(["a handler with", "gets/s", "p99, ms", "puts/s", "p99, ms"], rows)


def _measured(output: str) -> tuple[float, float]:
    found = re.search(r"99%\s+([\d.]+)(us|ms|s)\b", output)
    assert found is not None, output
    return rate(output), float(found[1]) * {"us": 1e-3, "ms": 1, "s": 1e3}[found[2]]


async def _bulk(box: Any, client: Client) -> str:
    rates: dict[str, list[float]] = {"nginx": [], "pyinterceptor, R2": []}
    get = ["/usr/bin/python3", str(HERE / "get.py")]
    for _ in range(ROUNDS):
        there = [*get, f"http://{HOST}:{NGINX_PORT}/large"]
        rates["nginx"].append(float(await trio.to_thread.run_sync(client.run, there)))
        here = await box.exec([*get, "http://my.r2/large"], check=True)
        rates["pyinterceptor, R2"].append(float(here.stdout))
    medians = {name: statistics.median(measured) for name, measured in rates.items()}
    rows = [[name, f"{value:.1f}", f"{value / medians['nginx']:.2f}"] for name, value in medians.items()]
    return table(["server", "Gbit/s", "of nginx"], rows)


async def _large() -> Any:
    for _ in range(SIZE // 2**20):
        yield bytes(2**20)


def _large_file(path: Path) -> None:
    with path.open("wb") as file:
        for _ in range(SIZE // 2**20):
            file.write(bytes(2**20))


def plain_sqlite(kept: str) -> sqlite3.Connection:
    """Its settings make it as durable as the embedded engine."""
    database = sqlite3.connect(Path(kept, "plain.sqlite"), isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("CREATE TABLE entries (key TEXT PRIMARY KEY, value BLOB)")
    return database


@contextmanager
def redis_server(kept: str) -> Iterator[None]:
    """Its settings make it as durable as the embedded engine."""
    options = ["--appendonly", "yes", "--appendfsync", "always", "--dir", kept, "--save", ""]
    process = subprocess.Popen(
        on_one_core(["redis-server", "--port", str(REDIS_PORT), "--bind", "127.0.0.1", *options]),
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for_port("127.0.0.1", REDIS_PORT)
        yield
    finally:
        end(process)


@contextmanager
def nginx(kept: str) -> Iterator[None]:
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory, "nginx.conf")
        config.write_text(NGINX.format(directory=directory, host=HOST, port=NGINX_PORT, root=kept))
        process = subprocess.Popen(["nginx", "-p", "/usr/share/nginx", "-c", str(config)])
        try:
            wait_for_port(HOST, NGINX_PORT)
            yield
        finally:
            end(process)


if __name__ == "__main__":
    main()
