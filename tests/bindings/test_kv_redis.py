"""Faults of a KV on Redis: a server that is down, hangs, is slow, is full or has moved; passwords and TLS."""

from __future__ import annotations

import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from pyinterceptor import KV, BindingError, PolicyError
from pyinterceptor.bindings.kv import Namespace
from tests.bindings.faults import DEADLINE, fails
from tests.bindings.processes import free_port, until
from tests.bindings.redis_servers import (
    OF_A_CLUSTER,
    RedisServer,
    a_replica,
    identity,
    is_whole,
    manage,
    replication,
    three_nodes,
)
from tests.socket.loopback import in_trio


@asynccontextmanager
async def on(url: str) -> AsyncIterator[Namespace]:
    async with KV(url).open("KV", Path("/nonexistent")) as kv:
        yield kv


@in_trio
async def test_a_server_that_is_down_is_503_at_once_and_is_used_again_once_it_is_up(tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        async with on(server.url) as kv:
            await kv.put("key", "old", metadata=1)
            server.kill()
            for call in (lambda: kv.put("key", "new"), lambda: kv.get("key"), lambda: kv.list()):
                assert "can't connect" in str(await fails(call, 503))
            await trio.to_thread.run_sync(server.start)
            assert (await kv.get_with_metadata("key")).value == "old"
            await kv.put("key", "new")
            assert await kv.get("key") == "new"
    with pytest.raises(BindingError, match=f"KV KV: redis at 127.0.0.1:{server.port}: can't connect"):
        async with on(server.url):
            pass


@in_trio
async def test_a_server_that_hangs_is_504_in_time_and_carries_out_nothing_late(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        async with on(server.url) as kv:
            await kv.put("key", "old", metadata="old")
            await kv.put("other", "old")
            with server.stopped():
                calls: list[Callable[[], Awaitable[Any]]] = [lambda: kv.put("key", "new", metadata="new")]
                calls += [lambda: kv.delete("other"), lambda: kv.get("key")]
                async with trio.open_nursery() as nursery:
                    for call in calls:
                        nursery.start_soon(fails, call, 504)
            found = await kv.get_with_metadata("key")
            assert (found.value, found.metadata) == ("old", "old")
            assert await kv.get("other") == "old"
            assert len((await kv.list()).keys) == 2
            await kv.put("key", "new")
            assert await kv.get("key") == "new"


@in_trio
async def test_a_server_that_was_slow_once_carries_out_nothing_late_the_next_time(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        async with on(server.url) as kv:
            async with trio.open_nursery() as nursery:
                await kv.put("key", "old")
                with server.stopped():
                    nursery.start_soon(kv.put, "key", "slow")
                    await trio.sleep(2.5)  # slow, but within the deadline
            assert await kv.get("key") == "slow"
            with server.stopped():
                await fails(lambda: kv.put("key", "late"), 504)
            await kv.put("behind it", "x")
            assert await kv.get("key") == "slow"


@in_trio
async def test_a_full_server_is_507_and_keeps_its_entries(tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--maxmemory-policy", "noeviction") as server:
        async with on(server.url) as kv:
            await kv.put("key", "old", metadata="old")
            for number in range(100):  # they expire, but their names stay until the next write
                await kv._engine.put(b"dying%d" % number, b"x", None, int(time.time()) + 1)
            while await kv.get("dying99") is not None:
                await trio.lowlevel.checkpoint()
            server.command("CONFIG", "SET", "maxmemory", "1")
            await fails(lambda: kv.put("key", "new"), 507)
            found = await kv.get_with_metadata("key")
            assert (found.value, found.metadata) == ("old", "old")
            server.command("CONFIG", "SET", "maxmemory", "0")
            await kv.put("key", "new")
            assert await kv.get("key") == "new"


@in_trio
async def test_a_password_is_used_and_never_shown(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        server.command("ACL", "SETUSER", "app", "on", ">s3cret/p@ss", "~*", "+@all")
        server.command("ACL", "SETUSER", "default", "off")
        server.answers = lambda: True  # type: ignore[method-assign]
        host = f"127.0.0.1:{server.port}"
        async with on(f"redis://app:s3cret%2Fp%40ss@{host}/3?prefix=x") as kv:
            await kv.put("key", "value")
            assert await kv.get("key") == "value"
        with pytest.raises(BindingError, match="WRONGPASS|invalid username-password") as caught:
            async with on(f"redis://app:s3cret@{host}"):
                pass
        assert "s3cret" not in str(caught.value)
        assert "s3cret" not in repr(KV(f"redis://app:s3cret@{host}"))


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://:p4ss@host:port",
        "redis://:p4ss@host:0",
        "redis://host/name",
        "redis://host?size=1",
        "redis://host?prefix={a}",
        "redis://host?prefix=",
        "redis://host?prefix=\udcff",  # how Python decodes a byte of the command line that isn't UTF-8
    ],
)
@in_trio
async def test_an_invalid_url_is_refused_without_showing_its_password(url: str) -> None:
    with pytest.raises(PolicyError, match="the URL must have the form redis://user:password@host:6379") as caught:
        async with on(url):
            pass
    assert "p4ss" not in str(caught.value)


@in_trio
async def test_a_cluster_survives_moved_slots_and_a_dead_node_is_reported(tmp_path: Path) -> None:
    names = [f"key{number}" for number in range(60)]
    with three_nodes(tmp_path) as nodes:
        async with on(nodes[1].url) as kv:
            for name in names:
                await kv.put(name, name, metadata=name)
            await trio.to_thread.run_sync(move_some_slots, nodes)
            for name in names:
                assert await kv.get(name) == name
                await kv.put(name, f"again {name}")
            assert [key.name for key in (await kv.list()).keys] == sorted(names)
            nodes[2].kill()
            await trio.to_thread.run_sync(until, lambda: is_failing(nodes[0]))
            for call in (lambda: kv.put("key1", "x"), lambda: kv.list()):
                await fails(call, 503, 504)


@in_trio
async def test_a_cluster_that_is_down_is_503_or_504_and_is_used_again_once_it_is_up(tmp_path: Path) -> None:
    names = [f"key{number}" for number in range(40)]  # in every bucket
    with three_nodes(tmp_path) as nodes:
        async with on(nodes[0].url) as kv:
            for node in nodes:
                node.kill()
            async with trio.open_nursery() as nursery:
                for name in names:
                    nursery.start_soon(fails, partial(kv.get, name), 503, 504)
                    nursery.start_soon(fails, partial(kv.put, name, "x"), 503, 504)
            for node in nodes:
                await trio.to_thread.run_sync(node.start)
            await trio.to_thread.run_sync(until, lambda: all(is_whole(node, 3) for node in nodes))
            for name in names:
                await kv.put(name, name)
                assert await kv.get(name) == name


@in_trio
async def test_a_cluster_that_is_not_formed_yet_is_503(tmp_path: Path) -> None:
    with RedisServer(tmp_path, *OF_A_CLUSTER) as node, pytest.raises(BindingError, match="can't connect"):
        async with on(node.url):
            pass


def is_failing(node: RedisServer) -> bool:
    return "cluster_state:fail" in str(node.command("CLUSTER", "INFO"))


def move_some_slots(nodes: Sequence[RedisServer]) -> None:
    """Moves slots from the first node to the second without informing the clients."""
    first, second = (identity(node) for node in nodes[:2])
    manage("reshard", nodes[0].address, "--cluster-from", first, "--cluster-to", second, "--cluster-slots", "3000")


@in_trio
async def test_a_cluster_whose_node_is_replaced_by_its_replica_goes_on(tmp_path: Path) -> None:
    names = [f"key{number}" for number in range(60)]
    (tmp_path / "replica").mkdir()
    with three_nodes(tmp_path) as nodes, a_replica(tmp_path / "replica", nodes[2]) as replica:
        async with on(nodes[0].url) as kv:
            for name in names:
                await kv.put(name, name)
            until(lambda: replica.command("DBSIZE") == nodes[2].command("DBSIZE"))
            nodes[2].kill()
            await trio.to_thread.run_sync(until, lambda: replication(replica)["role"] == "master")
            await trio.to_thread.run_sync(until, lambda: all(is_whole(node, 4) for node in (*nodes[:2], replica)))
            for name in names:
                assert await kv.get(name) == name
                await kv.put(name, f"again {name}")
            assert [key.name for key in (await kv.list()).keys] == sorted(names)
            assert replica.command("DBSIZE")


@in_trio
async def test_a_cluster_whose_node_hangs_answers_in_time_and_does_nothing_late(tmp_path: Path) -> None:
    names = [f"key{number}" for number in range(30)]
    with three_nodes(tmp_path) as nodes:
        async with on(nodes[0].url) as kv:
            for name in names:
                await kv.put(name, "old", metadata="old")
            taken, statuses = set(), set()

            async def change(name: str) -> None:
                with trio.fail_after(DEADLINE):
                    try:
                        await kv.put(name, "new", metadata="new")
                        taken.add(name)
                    except BindingError as error:
                        statuses.add(error.status)

            with nodes[2].stopped():
                async with trio.open_nursery() as nursery:
                    for name in names:
                        nursery.start_soon(change, name)
            assert 0 < len(taken) < len(names)
            assert statuses <= {503, 504}
            await trio.to_thread.run_sync(until, lambda: all(is_whole(node, 3) for node in nodes))
            await kv.put("behind them", "x")
            for name in names:
                wanted = "new" if name in taken else "old"
                found = await kv.get_with_metadata(name)
                assert (found.value, found.metadata) == (wanted, wanted)
            for name in names:
                await kv.put(name, "newer")
                assert await kv.get(name) == "newer"


@pytest.mark.parametrize("scheme", ["rediss", "valkeys"])
@in_trio
async def test_tls_accepts_only_a_server_with_a_trusted_certificate(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key, port = str(tmp_path / "tls.crt"), str(tmp_path / "tls.key"), free_port()
    make_certificate(certificate, key)
    options = ["--tls-port", str(port), "--tls-cert-file", certificate, "--tls-key-file", key]
    with RedisServer(tmp_path, *options, "--tls-auth-clients", "no", "--tls-ca-cert-file", certificate):
        with pytest.raises(BindingError, match="can't connect"):
            async with on(f"{scheme}://127.0.0.1:{port}"):
                pass
        monkeypatch.setenv("SSL_CERT_FILE", certificate)
        async with on(f"{scheme}://127.0.0.1:{port}") as kv:
            await kv.put("key", "value")
            assert await kv.get("key") == "value"


def make_certificate(place: str, key: str) -> None:
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    make += ["-keyout", key, "-out", place, "-subj", "/CN=kv", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(make, check=True, capture_output=True)
