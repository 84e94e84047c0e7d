"""The world itself, on which the other tests depend."""

import hashlib
import socket
import subprocess
from pathlib import Path

import pytest

from tests.world import DEAD_V6, NAMESERVER_V6, ORIGIN_V4, ORIGIN_V6, World


def test_every_name_has_the_addresses_of_nginx_in_both_families(world: World) -> None:
    for family, address in (("-4", ORIGIN_V4), ("-6", ORIGIN_V6)):
        page = subprocess.run(
            ["curl", "-sS", family, "http://origin.test/who"], capture_output=True, check=True
        )
        assert page.stdout.split()[:2] == [b"origin.test", address.encode()]


def test_the_download_has_its_digest(world: World) -> None:
    page = subprocess.run(["curl", "-sS", "http://origin.test/large.bin"], capture_output=True, check=True)
    assert hashlib.sha256(page.stdout).hexdigest() == world.servers.large_sha256


def test_the_counters_count_connection_attempts_and_nothing_else(world: World) -> None:
    before = world.counts()
    socket.create_connection((ORIGIN_V4, 7), timeout=5).close()
    socket.create_connection((ORIGIN_V6, 7), timeout=5).close()
    after = world.counts()
    assert (after.syns - before.syns, after.datagrams - before.datagrams, after.pings - before.pings) == (
        2,
        0,
        0,
    )


def test_the_dead_address_does_not_even_refuse(world: World) -> None:
    with pytest.raises(TimeoutError):
        socket.create_connection((DEAD_V6, 80), timeout=0.5)


def test_names_can_be_changed_and_queries_are_written_down(world: World) -> None:
    world.name("fresh.test", "198.51.100.20", ttl=1)
    assert socket.getaddrinfo("fresh.test", 80, socket.AF_INET)[0][4] == ("198.51.100.20", 80)
    assert ("fresh.test", "A") in world.queries()
    world.name("fresh.test")
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo("fresh.test", 80)
    with socket.create_connection((NAMESERVER_V6, 53), timeout=5):
        pass


def test_ssh_redis_and_git_serve(world: World, tmp_path: Path) -> None:
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    argv = ["ssh", *options, "-i", str(world.servers.ssh_key), "root@origin.test", "echo", "from sshd"]
    assert subprocess.run(argv, capture_output=True, check=True).stdout == b"from sshd\n"
    ping = subprocess.run(["redis-cli", "-h", "origin.test", "ping"], capture_output=True, check=True)
    assert ping.stdout == b"PONG\n"
    clone = ["git", "clone", "-q", "http://origin.test/git/project.git", str(tmp_path / "clone")]
    subprocess.run(clone, check=True)
    assert (tmp_path / "clone" / "file.txt").read_text() == "cloned from the world\n"
