"""The container's view of the host's files, as arguments of bwrap(1).

All files are read-only, except for the working directory and a private /tmp. Hidden directories are not mounted at all:
a mount of /run in a container would also keep the namespaces and pins alive that are mounted below it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from pyinterceptor.errors import RuntimeFailure
from pyinterceptor.paths import HOSTS, RESOLV_CONF, RUN, STATE

FRESH = ("dev", "proc", "run", "sys", "tmp")  # top-level directories that the container gets new, not from the host
UNUSABLE = ("/dev", "/proc", "/sys", RUN, STATE)  # refused as working directories, as is /run itself
# File systems that show or control the kernel. Their mounts are hidden anywhere, for example below a chroot.
KERNELS = {
    *("binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs", "efivarfs"),
    *("fusectl", "mqueue", "nsfs", "proc", "pstore", "securityfs", "sysfs", "tracefs"),
}
# Apart from processes, every mount of /proc shows the host's files, and the kernel lets uid 0 write /proc/sys without a
# capability. So all of these files are read-only, and those below, which reveal too much, are empty.
PROC_MASKED = (
    "acpi", "asound", "kcore", "keys", "kmsg", "latency_stats", "sched_debug", "scsi", "timer_list",
)

Mount = tuple[str, list[str]]  # a path, and bwrap's arguments for it


def mount_arguments(workdir: Path, resolv_conf_fd: int, hosts_fd: int) -> list[str]:
    """Returns bwrap's arguments. bwrap reads the container's resolv.conf and hosts from the descriptors.

    Raises RuntimeFailure if the working directory is unusable.
    """
    _check(workdir)
    mounts = [*_read_only("/", FRESH), *_hidden_kernels(workdir), *_fresh(), *_proc()]
    secrets = list(_secrets("/etc"))
    state = os.path.realpath(STATE)  # it may be a link to a larger disk
    mounts.append((state, ["--tmpfs", state, "--remount-ro", state]))
    closing = ["--remount-ro", "/run", "--remount-ro", "/", "--chdir", str(workdir)]
    places = [place_of(RESOLV_CONF), place_of(HOSTS)]
    if None in places:
        etc = str(HOSTS.parent)
        names = [os.path.basename(path) for path in (RESOLV_CONF, HOSTS)]
        mounts += [(etc, ["--perms", "0755", "--tmpfs", etc]), *_read_only(etc, names)]
        secrets = [mount for mount in secrets if mount[0] not in (str(RESOLV_CONF), str(HOSTS))]
        closing = ["--remount-ro", etc, *closing]
        places = [str(RESOLV_CONF), str(HOSTS)]
    for place, fd in zip(places, (resolv_conf_fd, hosts_fd), strict=True):
        assert place is not None
        mounts.append((place, ["--perms", "0644", "--ro-bind-data", str(fd), place]))
    if workdir != Path("/"):
        mounts += [(str(workdir), ["--bind", str(workdir), str(workdir)]), *_git(workdir)]
    mounts += [mount for mount in secrets if mount[0] not in places]
    # Mount deeper paths later, so that no mount covers one that another argument has made.
    mounts.sort(key=lambda mount: len(Path(mount[0]).parts))
    return [*(word for _, words in mounts for word in words), *closing]


def _git(workdir: Path) -> Iterator[Mount]:
    """Yields mounts that make the files of a repository read-only which name programs that git runs outside.

    The repository becomes a mount too: otherwise it could be renamed, and another put in its place.
    """
    repository = workdir / ".git"
    if repository.is_symlink() or not repository.exists():
        return
    if not repository.is_dir():  # it names the repository: gitrepository-layout(5)
        yield str(repository), ["--ro-bind", str(repository), str(repository)]
        return
    yield str(repository), ["--bind", str(repository), str(repository)]
    for name in ("hooks", "config", "config.worktree"):
        path = repository / name
        if path.exists() and not path.is_symlink():
            yield str(path), ["--ro-bind", str(path), str(path)]


def _secrets(top: str) -> Iterator[Mount]:
    """Yields a mount over each file that not all users may read, and each socket: the container may run as root."""
    for directory, names, files in os.walk(top):
        for name in list(names):
            path = os.path.join(directory, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISDIR(mode) and mode & 0o005 != 0o005:
                names.remove(name)
                yield path, _emptied(path)
        for name in files:
            path = os.path.join(directory, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISSOCK(mode) or (stat.S_ISREG(mode) and not mode & 0o004):
                yield path, _emptied(path)


def place_of(file: Path) -> str | None:
    """Returns the path in the container at which the file behind the links of a file in /etc can be mounted.

    None if no such path exists: the file is missing, or its links lead to a missing file in a read-only directory.
    """
    path = str(file)
    for _ in range(40):  # the number of links that the kernel follows
        path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        if path.split("/")[1] in FRESH:
            return path
        if not os.path.islink(path):
            break
        path = os.path.join(os.path.dirname(path), os.readlink(path))
    return path if os.path.isfile(path) else None


def _read_only(directory: str, without: Collection[str]) -> Iterator[Mount]:
    """Yields a read-only mount, at the same path, for each entry of a host directory, except the names in `without`."""
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
    """Yields an empty mount over each file system in KERNELS that the container would see, also in `workdir`."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        _, _, device, _, place, *_ = fields.split()
        place = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), place)
        is_bound = workdir != Path("/") and Path(place).is_relative_to(workdir)
        is_seen = is_bound or place.split("/")[1] not in FRESH
        if rest.split()[0] in KERNELS and is_seen and _is_on(place, device):
            yield place, _emptied(place)


def _is_on(place: str, device: str) -> bool:
    """Whether this mount is visible at `place`, instead of another one on top of it."""
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
        raise RuntimeFailure(f"use {workdir} as working directory: not a directory")
    if workdir == Path("/run") or any(workdir.is_relative_to(place) for place in UNUSABLE):
        raise RuntimeFailure(f"use {workdir} as working directory: it is hidden from containers")
