"""What a workload sees of the host's files, as arguments of bwrap(1).

Everything read-only, but for the working directory and a private /tmp. What is hidden is not mounted at
all: a mount of /run in a container would also keep alive the namespaces and pins that are mounted below
it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from pyinterceptor.errors import RuntimeFailure
from pyinterceptor.paths import RESOLV_CONF, RUN, STATE

FRESH = ("dev", "proc", "run", "sys", "tmp")  # top-level places that are ours inside
UNUSABLE = ("/dev", "/proc", "/sys", RUN, STATE)  # never a working directory, nor all of /run
# File systems that show or steer the kernel, which may be mounted anywhere, as below a chroot: hidden.
KERNELS = {
    *("binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs", "efivarfs"),
    *("fusectl", "mqueue", "nsfs", "proc", "pstore", "securityfs", "sysfs", "tracefs"),
}
# What /proc holds besides processes is the host's through any mount of it, and the kernel lets uid 0 write
# /proc/sys without a capability: so all of it is read-only, and these, which say too much, are empty.
PROC_MASKED = (
    "acpi", "asound", "kcore", "keys", "kmsg", "latency_stats", "sched_debug", "scsi", "timer_list",
)

Mount = tuple[str, list[str]]  # a place, and bwrap's arguments for it


def mount_arguments(workdir: Path, resolv_conf_fd: int) -> list[str]:
    """`resolv_conf_fd` holds the text of the container's resolv.conf; bwrap reads it and closes it.

    Raises: RuntimeFailure for a working directory that can't be.
    """
    _check(workdir)
    mounts = [*_read_only("/", FRESH), *_hidden_kernels(workdir), *_fresh(), *_proc()]
    state = os.path.realpath(STATE)  # it may be a link to where there is room
    mounts.append((state, ["--tmpfs", state, "--remount-ro", state]))
    closing = ["--remount-ro", "/run", "--remount-ro", "/", "--chdir", str(workdir)]
    place = resolv_conf_place()
    if place is None:
        place, etc = str(RESOLV_CONF), str(RESOLV_CONF.parent)
        mounts += [(etc, ["--perms", "0755", "--tmpfs", etc]), *_read_only(etc, [os.path.basename(place)])]
        closing = ["--remount-ro", etc, *closing]
    mounts.append((place, ["--perms", "0644", "--ro-bind-data", str(resolv_conf_fd), place]))
    if workdir != Path("/"):
        mounts.append((str(workdir), ["--bind", str(workdir), str(workdir)]))
    # What lies deeper comes later, so nothing covers a place that something else has made.
    mounts.sort(key=lambda mount: len(Path(mount[0]).parts))
    return [*(word for _, words in mounts for word in words), *closing]


def resolv_conf_place() -> str | None:
    """Where inside the file can be put that /etc/resolv.conf leads to, through however many links.

    None where there is no such place: it is missing, or leads to nothing in what is read-only.
    """
    path = str(RESOLV_CONF)
    for _ in range(40):  # as many links as the kernel follows
        path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        if path.split("/")[1] in FRESH:
            return path
        if not os.path.islink(path):
            break
        path = os.path.join(os.path.dirname(path), os.readlink(path))
    return path if os.path.isfile(path) else None


def _read_only(directory: str, without: Collection[str]) -> Iterator[Mount]:
    """What is in a directory, each where it is, as it is on the host."""
    for name in sorted(os.listdir(directory)):
        path = os.path.join(directory, name)
        mode = os.lstat(path).st_mode
        if name in without:
            continue
        if stat.S_ISLNK(mode):
            yield path, ["--symlink", os.readlink(path), path]
        elif stat.S_ISDIR(mode) or stat.S_ISREG(mode):
            yield path, ["--ro-bind", path, path]


def _hidden_kernels(workdir: Path) -> Iterator[Mount]:
    """Over each mount of such a file system that is to be seen: in what is read-only, or in `workdir`."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        _, _, device, _, place, *_ = fields.split()
        place = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), place)
        is_bound = workdir != Path("/") and Path(place).is_relative_to(workdir)
        is_seen = is_bound or place.split("/")[1] not in FRESH
        if rest.split()[0] in KERNELS and is_seen and _is_on(place, device):
            yield place, _emptied(place)


def _is_on(place: str, device: str) -> bool:
    """Whether it is this mount that is seen there, not another over it."""
    try:
        found = os.stat(place).st_dev
    except OSError:
        return False
    return device == f"{os.major(found)}:{os.minor(found)}"


def _emptied(place: str) -> list[str]:
    if os.path.isdir(place):
        return ["--tmpfs", place, "--remount-ro", place]
    return ["--ro-bind", "/dev/null", place]


def _fresh() -> Iterator[Mount]:
    yield "/run", ["--perms", "0755", "--tmpfs", "/run"]
    yield "/tmp", ["--perms", "1777", "--tmpfs", "/tmp"]
    yield "/sys", ["--perms", "0755", "--tmpfs", "/sys", "--remount-ro", "/sys"]
    yield "/dev", ["--dev", "/dev"]
    yield "/dev/shm", ["--perms", "1777", "--tmpfs", "/dev/shm"]


def _proc() -> Iterator[Mount]:
    yield "/proc", ["--proc", "/proc"]
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal() or entry.is_symlink():
            continue
        if entry.name in PROC_MASKED:
            yield entry.path, _emptied(entry.path)
        elif entry.is_dir() or entry.stat().st_mode & 0o222:
            yield entry.path, ["--ro-bind", entry.path, entry.path]


def _check(workdir: Path) -> None:
    if not workdir.is_dir():
        raise RuntimeFailure(f"use {workdir} as working directory: it is no directory")
    if workdir == Path("/run") or any(workdir.is_relative_to(place) for place in UNUSABLE):
        raise RuntimeFailure(f"use {workdir} as working directory: it is hidden from containers")
