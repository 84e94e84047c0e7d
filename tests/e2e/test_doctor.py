"""`pyinterceptor doctor` reports each missing requirement with its remedy, and by the exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pyinterceptor.capture.probe import CAPABILITIES

DOCTOR = [sys.executable, "-m", "pyinterceptor", "doctor"]


REUSE = Path("/proc/sys/net/ipv4/tcp_tw_reuse")


@pytest.fixture(autouse=True)
def reuse() -> Iterator[None]:
    before = REUSE.read_text()
    REUSE.write_text("1")
    yield
    REUSE.write_text(before)


def doctor(prefix: Sequence[str] = (), **environment: str) -> tuple[int, list[str]]:
    """Returns exit code and lines."""
    ran = subprocess.run(
        [*prefix, *DOCTOR], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert ran.stderr == ""
    return ran.returncode, ran.stdout.splitlines()


def test_nothing_is_missing_here() -> None:
    code, lines = doctor()
    assert code == 0
    assert all(line.startswith("ok        ") for line in lines)
    said = "\n".join(lines)
    for name in (*CAPABILITIES, "BCC", "nftables", "bubblewrap", "podman", "runc", "veth", "IPv6", "a range of uids"):
        assert name in said


@pytest.mark.parametrize("name", CAPABILITIES)
def test_a_missing_capability_is_named_and_the_kernel_not_blamed(name: str) -> None:
    code, lines = doctor(["setpriv", f"--bounding-set=-{name.removeprefix('CAP_').lower()}"])
    assert code == 1
    assert f"MISSING   {name}: run as root, or grant the process {name}" in lines
    assert "MISSING   veth: not tried without the capabilities above" in lines


def test_another_user_is_told_in_one_line_to_use_sudo() -> None:
    code, lines = doctor(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"])
    assert (code, lines) == (1, ["MISSING   root: run it with sudo"])


def test_missing_programs_are_named_with_their_packages_and_some_are_optional(tmp_path: Path) -> None:
    code, lines = doctor(PATH=str(tmp_path))
    assert code == 1
    assert "MISSING   bwrap (bubblewrap): apt install bubblewrap" in lines
    (tmp_path / "bwrap").symlink_to("/bin/true")
    code, lines = doctor(PATH=str(tmp_path))
    assert code == 0
    assert "optional  podman (podman): for container classes with an image: apt install podman" in lines


def test_a_missing_package_is_named() -> None:
    hidden = 'mount -t tmpfs tmpfs "$(dirname "$(/usr/bin/python3 -c "import bcc; print(bcc.__file__)")")"; exec "$@"'
    code, lines = doctor(["unshare", "--mount", "sh", "-c", hidden, "sh"])
    assert code == 1
    assert any(line.startswith("MISSING   BCC: apt install python3-bpfcc") for line in lines)


def test_without_cgroups_the_limits_are_named_with_the_remedy_and_are_optional() -> None:
    code, lines = doctor(["unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /sys/fs/cgroup; exec "$@"', "sh"])
    assert code == 0
    remedy = "mount /sys/fs/cgroup writable with the controllers memory, pids and cpu, and run as root"
    assert [line for line in lines if not line.startswith("ok")] == [
        f"optional  cgroups with {name}: to limit {name}: {remedy}" for name in ("memory", "pids", "cpu")
    ]


def test_ports_that_the_host_does_not_reuse_are_named_with_the_remedy() -> None:
    REUSE.write_text("2")
    code, lines = doctor()
    assert code == 0
    (line,) = [line for line in lines if not line.startswith("ok")]
    assert line.startswith("optional  net.ipv4.tcp_tw_reuse=1: ")
    assert line.endswith(": sysctl -w net.ipv4.tcp_tw_reuse=1")


def test_a_kernel_feature_that_is_refused_is_named() -> None:
    """A process in a user namespace has all capabilities, and the kernel still refuses such a program."""
    code, lines = doctor(["unshare", "--user", "--map-root-user"])
    assert code == 1
    assert [line for line in lines if not line.startswith("ok")] == [
        "MISSING   BPF socket look-up programs: use a kernel of 5.9 or later with CONFIG_BPF_SYSCALL",
        "optional  a range of uids: for containers that run as root: use a kernel with CONFIG_USER_NS,"
        " set user.max_user_namespaces above 0, and run in no user namespace",
    ]
