"""A killed instance leaves a gateway that refuses everything, and nothing that prevents the next start."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pyinterceptor.capture.gateway.gateway import free_instance, open_gateway, remove_leftovers
from pyinterceptor.capture.gateway.pins import links_of
from pyinterceptor.capture.gateway.state import state_of
from pyinterceptor.errors import CaptureError
from tests.kernel.container import AT_ONCE, BareContainer, accept, in_trio, open_container

V4, V6 = "198.51.100.7", "2001:db8:7::7"


@contextmanager
def predecessor(instance: str, container: BareContainer, *how: str) -> Iterator[subprocess.Popen[bytes]]:
    """Runs tests/kernel/predecessor.py, and kills it at the end of the block if it still runs."""
    argv = [sys.executable, str(Path(__file__).with_name("predecessor.py")), instance, str(container.fd), *how]
    with subprocess.Popen(argv, pass_fds=[container.fd], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def is_attached(process: subprocess.Popen[bytes]) -> bool:
    """Waits until the predecessor is attached. Returns False if it has died instead."""
    assert process.stdout is not None
    return process.stdout.readline() == b"attached\n"


def mounts(instance: str) -> set[str]:
    """Returns the names of the mounts below an instance's directory."""
    places = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    directory = state_of(instance).directory
    return {place.removeprefix(f"{directory}/") for place in places if place.startswith(f"{directory}/")}


@in_trio
async def test_who_is_killed_leaves_a_closed_door_that_the_next_removes(instance: str) -> None:
    state = state_of(instance)
    with open_container() as container:
        with predecessor(instance, container) as dying:
            assert is_attached(dying)
            with container.connect(V4, 80) as v4, container.connect(V6, 80) as v6:  # the control
                dying.kill()
                dying.wait()
                for flow in (v4, v6):
                    with pytest.raises(ConnectionResetError):
                        flow.recv(1)
        left = state.namespace.stat().st_ino
        assert mounts(instance) == {"gateway", "bpf"}
        assert {pin.name for pin in state.pins.iterdir()} >= {"program", "link", "listeners", "containers"}
        assert links_of(left) == 1
        assert container.interfaces() == {"lo", "eth0"}
        for address in (V4, V6, "169.254.1.1"):
            for port in (53, 80, 443):
                refusals = container.refusal(address, port), container.datagram_refusal(address, port)
                assert {refusal.error for refusal in refusals} == {"ConnectionRefusedError"}
                assert max(refusal.seconds for refusal in refusals) < AT_ONCE

        async with open_gateway(instance, v6=True) as gateway:
            assert container.interfaces() == {"lo"}
            assert links_of(left) == 0
            assert state.namespace.stat().st_ino != left
            await gateway.attach(gateway.reserve(1), container.fd)
            for address in (V4, V6):
                with container.connect(address, 80) as client, await accept(gateway.listener) as accepted:
                    client.sendall(b"here")
                    assert accepted.recv(4) == b"here"
        assert not state.directory.exists()


@pytest.mark.parametrize("function", ["hold", "_open", "make_namespace.<locals>.run", "attach"])
@in_trio
async def test_wherever_in_opening_it_is_killed_the_next_starts(instance: str, function: str) -> None:
    deaths = 0
    with open_container() as container, predecessor(instance, container, "each") as dying:
        while not dies_attached(dying, f"{function} {deaths}"):
            deaths += 1
            async with open_gateway(instance, v6=True) as gateway:
                assert container.interfaces() == {"lo"}
                await gateway.attach(gateway.reserve(1), container.fd)
                with container.connect(V4, 80), await accept(gateway.listener):
                    pass
            assert not state_of(instance).directory.exists()
        remove_leftovers(instance)
    assert deaths > 2


def dies_attached(predecessors: subprocess.Popen[bytes], where: str) -> bool:
    """Starts a predecessor that dies at `where`. Returns True if it was attached before its death."""
    assert predecessors.stdin is not None
    assert predecessors.stdout is not None
    predecessors.stdin.write(f"{where}\n".encode())
    predecessors.stdin.flush()
    said = predecessors.stdout.readline()
    if said == b"dead\n":
        return False
    assert (said, predecessors.stdout.readline()) == (b"attached\n", b"dead\n")
    return True


@in_trio
async def test_leftovers_are_removed_without_a_start(instance: str) -> None:
    with open_container() as container:
        with predecessor(instance, container) as dying:
            assert is_attached(dying)
            with pytest.raises(CaptureError, match="is running already"):
                remove_leftovers(instance)  # the instance is alive
            assert container.interfaces() == {"lo", "eth0"}
        dying.wait()
        assert mounts(instance) == {"gateway", "bpf"}
        remove_leftovers(instance)
        remove_leftovers(instance)
        assert mounts(instance) == set()
        assert not state_of(instance).directory.exists()
        assert container.interfaces() == {"lo"}


@in_trio
async def test_a_name_for_this_process_removes_what_dead_ones_of_the_kind_left(instance: str) -> None:
    with open_container() as container, open_container() as other:
        with predecessor(f"{instance}-1", container) as dying, predecessor(f"{instance}-2", other) as living:
            assert is_attached(dying)
            assert is_attached(living)
            dying.kill()
            dying.wait()
            assert free_instance(instance) == f"{instance}-{os.getpid()}"
            assert not state_of(f"{instance}-1").directory.exists()
            assert (container.interfaces(), other.interfaces()) == ({"lo"}, {"lo", "eth0"})
            other.connect(V4, 80).close()
        remove_leftovers(f"{instance}-2")


@in_trio
async def test_an_instance_beside_a_killed_one_is_not_touched(instance: str) -> None:
    async with open_gateway(f"{instance}-living", v6=True) as living:
        with open_container() as container, open_container() as theirs:
            await living.attach(living.reserve(1), container.fd)
            with container.connect(V4, 80) as client, await accept(living.listener) as accepted:

                def works() -> None:
                    client.sendall(b"ping")
                    assert accepted.recv(4) == b"ping"
                    accepted.sendall(b"pong")
                    assert client.recv(4) == b"pong"
                    container.connect(V6, 80).close()

                works()
                with predecessor(instance, theirs) as dying:
                    assert is_attached(dying)
                    works()
                dying.wait()
                assert theirs.refusal(V4, 80).error == "ConnectionRefusedError"
                works()
                remove_leftovers(instance)
                assert theirs.interfaces() == {"lo"}
                works()
                assert mounts(f"{instance}-living") == {"gateway", "bpf"}


def test_a_compiler_that_outlives_its_owner_does_not_touch_the_next(instance: str, tmp_path: Path) -> None:
    first, second = Compiler(tmp_path / "first"), Compiler(tmp_path / "second")
    with open_container() as container:
        with predecessor(instance, container, first.program):
            orphan = os.pidfd_open(first.wait_until_called())
        with predecessor(instance, container, second.program) as living:
            second.wait_until_called()  # now everything exists except the program and its pins
            first.go_on()
            assert select.select([orphan], [], [], 30)[0], "the orphan has not ended"
            os.close(orphan)
            second.go_on()
            assert is_attached(living)
            assert links_of(state_of(instance).namespace.stat().st_ino) == 1
            container.connect(V4, 80).close()
        living.wait()
        remove_leftovers(instance)


class Compiler:
    """An interpreter for compiling the kernel program. It waits for `go_on` before it begins."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._called, self._told = directory / "called", directory / "told"
        for fifo in (self._called, self._told):
            os.mkfifo(fifo)
        script = directory / "python"
        script.write_text(f'#!/bin/sh\necho $$ >{self._called}\nread -r _ <{self._told}\nexec /usr/bin/python3 "$@"\n')
        script.chmod(0o755)
        self.program = str(script)

    def wait_until_called(self) -> int:
        """Waits until the interpreter was started. Returns its pid."""
        return int(self._called.read_text())

    def go_on(self) -> None:
        self._told.write_text("\n")


@in_trio
async def test_a_copy_of_our_mounts_keeps_nothing_alive(instance: str) -> None:
    with open_container() as container, ExitStack() as stack:
        async with open_gateway(instance, v6=True) as gateway:
            await gateway.attach(gateway.reserve(1), container.fd)
            namespace = state_of(instance).namespace.stat().st_ino
            copy = stack.enter_context(copy_of_our_mounts())
            assert f"{state_of(instance).namespace} " in copy.read_text()
            assert links_of(namespace) == 1
        assert f"{state_of(instance).namespace} " not in copy.read_text()
        assert links_of(namespace) == 0
        assert container.interfaces() == {"lo"}


@contextmanager
def copy_of_our_mounts() -> Iterator[Path]:
    """Copies our mount namespace, without later changes to ours. Yields the path of the copy's list of mounts."""
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo copied; read -r _"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as copy:
        assert copy.stdout is not None
        assert copy.stdout.readline() == b"copied\n"
        yield Path(f"/proc/{copy.pid}/mountinfo")


@in_trio
async def test_the_host_stays_as_it_is(instance: str) -> None:
    before = host()
    with open_container() as container, open_container() as other:
        async with open_gateway(instance, v6=True) as gateway:
            await gateway.attach(gateway.reserve(1), container.fd)
            with container.connect(V4, 80), await accept(gateway.listener):
                assert host() == before
        assert host() == before
        with predecessor(instance, other) as dying:
            assert is_attached(dying)
        dying.wait()
        assert host() == before
        remove_leftovers(instance)
        assert host() == before


def test_a_change_of_the_host_would_be_seen() -> None:
    before = host()
    changes = [
        ("ip link add seen type veth peer name as-well", "ip link del seen"),
        ("ip rule add pref 7 lookup main", "ip rule del pref 7"),
        ("ip -6 route add unreachable 2001:db8:5ee::/48", "ip -6 route del unreachable 2001:db8:5ee::/48"),
        ("nft add table inet seen", "nft delete table inet seen"),
        ("sysctl -qw net.ipv4.ip_default_ttl=63", "sysctl -qw net.ipv4.ip_default_ttl=64"),
    ]
    for change, undo in changes:
        subprocess.run(change.split(), check=True)
        assert host() != before
        subprocess.run(undo.split(), check=True)
        assert host() == before


def host() -> dict[str, str]:
    """Returns the network state of the test's own namespace: every sysctl, and the listings of ip and nft."""
    found = {}
    for path in Path("/proc/sys/net").rglob("*"):
        try:
            found[str(path)] = path.read_text() if path.is_file() else ""
        except OSError as error:  # write-only files, and per-interface files without a value
            found[str(path)] = type(error).__name__
    for command in (
        "ip -d link",
        "ip address",
        "ip route show table all",
        "ip -6 route show table all",
        "ip rule",
        "ip -6 rule",
        "nft list ruleset",
    ):
        found[command] = subprocess.run(command.split(), capture_output=True, text=True, check=True).stdout
    return found
