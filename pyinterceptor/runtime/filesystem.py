"""What a workload sees of the host's files, as arguments of bwrap(1).

Everything read-only, but for the working directory and a private /tmp. What is hidden is not mounted at
all: a mount of /run in a container would also keep alive the namespaces and pins that are mounted below
it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pyinterceptor.errors import RuntimeFailure

RESOLV_CONF = "/etc/resolv.conf"
FRESH = ("dev", "proc", "run", "sys", "tmp")  # top-level places that are ours inside
STATE = "/var/lib/pyinterceptor"
UNUSABLE = ("/dev", "/proc", "/sys", "/run/pyinterceptor", STATE)  # never a working directory
# What /proc holds besides processes is the host's through any mount of it, and the kernel lets uid 0 write
# /proc/sys without a capability: so all of it is read-only, and these, which say too much, are empty.
PROC_MASKED = (
    "acpi", "asound", "kcore", "keys", "kmsg", "latency_stats", "sched_debug", "scsi", "timer_list",
)


def mount_arguments(workdir: Path, resolv_conf_fd: int) -> list[str]:
    """`resolv_conf_fd` holds the text of the container's resolv.conf; bwrap reads it and closes it.

    Raises: RuntimeFailure for a working directory that can't be, or a host without /etc/resolv.conf.
    """
    mounts = [*_host(), *_fresh(), *_proc()]
    mounts.append((STATE, ["--tmpfs", STATE, "--remount-ro", STATE]))
    place = resolv_conf_place()
    mounts.append((place, ["--perms", "0644", "--ro-bind-data", str(resolv_conf_fd), place]))
    _check(workdir)
    if workdir != Path("/"):
        mounts.append((str(workdir), ["--bind", str(workdir), str(workdir)]))
    # What lies deeper comes later, so nothing covers a place that something else has made.
    mounts.sort(key=lambda mount: len(Path(mount[0]).parts))
    arguments = [word for _, words in mounts for word in words]
    return [*arguments, "--remount-ro", "/run", "--remount-ro", "/", "--chdir", str(workdir)]


def resolv_conf_place() -> str:
    """Where inside the file must stand that /etc/resolv.conf leads to, through however many links.

    Raises: RuntimeFailure where no file can be put there.
    """
    path = RESOLV_CONF
    for _ in range(40):  # as many links as the kernel follows
        path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        if path.split("/")[1] in FRESH:
            return path
        if not os.path.islink(path):
            break
        path = os.path.join(os.path.dirname(path), os.readlink(path))
    if not os.path.isfile(path):
        raise RuntimeFailure(f"give the container a resolv.conf: {path} is missing; run: touch {path}")
    return path


def _host() -> Iterator[tuple[str, list[str]]]:
    for name in sorted(os.listdir("/")):
        path = f"/{name}"
        mode = os.lstat(path).st_mode
        if name in FRESH:
            continue
        if stat.S_ISLNK(mode):
            yield path, ["--symlink", os.readlink(path), path]
        elif stat.S_ISDIR(mode) or stat.S_ISREG(mode):
            yield path, ["--ro-bind", path, path]


def _fresh() -> Iterator[tuple[str, list[str]]]:
    yield "/run", ["--perms", "0755", "--tmpfs", "/run"]
    yield "/tmp", ["--perms", "1777", "--tmpfs", "/tmp"]
    yield "/sys", ["--perms", "0755", "--tmpfs", "/sys", "--remount-ro", "/sys"]
    yield "/dev", ["--dev", "/dev"]
    yield "/dev/shm", ["--perms", "1777", "--tmpfs", "/dev/shm"]


def _proc() -> Iterator[tuple[str, list[str]]]:
    yield "/proc", ["--proc", "/proc"]
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal() or entry.is_symlink():
            continue
        is_dir = entry.is_dir(follow_symlinks=False)
        if entry.name in PROC_MASKED:
            empty = ["--tmpfs", entry.path, "--remount-ro"] if is_dir else ["--ro-bind", "/dev/null"]
            yield entry.path, [*empty, entry.path]
        elif is_dir or entry.stat().st_mode & 0o222:
            yield entry.path, ["--ro-bind", entry.path, entry.path]


def _check(workdir: Path) -> None:
    if not workdir.is_dir():
        raise RuntimeFailure(f"use {workdir} as working directory: it is no directory")
    for place in UNUSABLE:
        if workdir.is_relative_to(place):
            raise RuntimeFailure(f"use {workdir} as working directory: {place} is hidden from containers")
