"""Cgroups: the kernel's limits on the memory, processes and processor time of a container.

The embedded runtime makes a cgroup for each container, in v1 hierarchies where a controller has one and otherwise in
v2: cgroups(7). It lies below our own cgroup, so that a container stays under the limits that we are under. Under v2 a
cgroup that has processes can't have children with controllers; the nearest ancestor that can is used instead. The
directory is locked with flock(2) while its container lives. A directory that isn't locked is of a killed owner, and
the next start removes it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import trio

from pyinterceptor.errors import RuntimeFailure
from pyinterceptor.policy.limits import PIDS, Limits
from pyinterceptor.runtime.mounts import read_mounts

log = logging.getLogger("pyinterceptor")

CONTROLLERS = ("memory", "pids", "cpu")
PREFIX = "pyinterceptor-"
PERIOD = 100_000  # microseconds over which the kernel counts processor time: its default
REMEDY = "mount /sys/fs/cgroup writable with the controllers memory, pids and cpu, and run as root"
REMOVE_TIMEOUT = 5.0  # seconds for processes that have ended to leave their cgroup
PAUSE = 0.01  # seconds between two attempts to remove a cgroup


@dataclass(frozen=True, slots=True)
class Place:
    """A directory in which cgroups with some controller can be made, and the version of its hierarchy: 1 or 2."""

    version: int
    directory: Path


@dataclass(frozen=True, slots=True)
class Own:
    """Our own cgroup in one hierarchy. `controllers` is empty for v2. `mount` is where the hierarchy is mounted."""

    controllers: frozenset[str]
    directory: Path
    mount: Path


def own_cgroups(mountinfo: str, cgroup: str) -> list[Own]:
    """Reads our own cgroups from the texts of /proc/self/mountinfo and /proc/self/cgroup, as in proc(5)."""
    paths: dict[frozenset[str], str] = {}
    for line in cgroup.splitlines():
        _, names, path = line.split(":", 2)
        paths[frozenset(filter(None, names.split(",")))] = path
    found: dict[frozenset[str], Own] = {}
    for mount in read_mounts(mountinfo):
        for controllers, path in paths.items():
            is_v2 = mount.kind == "cgroup2" and not controllers
            is_v1 = mount.kind == "cgroup" and bool(controllers) and controllers <= set(mount.options)
            if (is_v1 or is_v2) and Path(path).is_relative_to(mount.root) and ".." not in Path(path).parts:
                directory = mount.place / Path(path).relative_to(mount.root)
                found[controllers] = Own(controllers, directory, mount.place)
    return list(found.values())


def find_places() -> dict[str, Place]:
    """Returns the place of each controller whose limits we can set."""
    hierarchies = own_cgroups(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
    places: dict[str, Place] = {}
    for own in hierarchies:
        if own.controllers and os.access(own.directory, os.W_OK):
            places.update({name: Place(1, own.directory) for name in own.controllers.intersection(CONTROLLERS)})
    for own in hierarchies:
        if not own.controllers:
            wanted = [name for name in CONTROLLERS if name not in places]
            places.update(_unified(own, wanted))
    return places


def enforceable(limits: Limits, places: Mapping[str, Place]) -> Limits:
    """Returns the limits with their defaults, as far as `places` has their controllers.

    A default without a controller is left out with a warning, once. Raises RuntimeFailure for any other limit without.
    """
    missing = [name for name in CONTROLLERS if name not in places]
    for name in missing:
        if (value := getattr(limits, name)) is not None:
            raise RuntimeFailure(f"limit {name} to {value}: no cgroup can be made; {REMEDY}")
    unlimited = [name for name in ("memory", "pids") if name in missing]
    if unlimited:
        _warn(f"{' and '.join(unlimited)} of containers are not limited, because no cgroup can be made; {REMEDY}")
    memory = _half_of_memory() if limits.memory is None and "memory" in places else limits.memory
    pids = PIDS if limits.pids is None and "pids" in places else limits.pids
    return Limits(memory=memory, pids=pids, cpu=limits.cpu, tmp=limits.tmp)


@asynccontextmanager
async def open_cgroup(limits: Limits) -> AsyncIterator[Callable[[], None] | None]:
    """Makes a cgroup for a container. Yields a function by which a process moves itself into it, as any user.

    None if no limit can be enforced.

    The cgroup is removed when the block ends; its processes must have ended. Raises RuntimeFailure.
    """
    places = find_places()
    enforced = enforceable(limits, places)
    with ExitStack() as stack:
        made: list[Path] = []
        fds: list[int] = []
        try:
            try:
                for place in dict.fromkeys(places.values()):
                    _remove_leftovers(place.directory)
                    directory, lock = _make(place.directory)
                    stack.callback(os.close, lock)
                    made.append(directory)
                    for name in (name for name in CONTROLLERS if places.get(name) == place):
                        _set(directory, _settings(place.version, name, enforced))
                    fds.append(os.open(directory / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC))
                    stack.callback(os.close, fds[-1])
            except OSError as error:
                raise RuntimeFailure(f"limit the container: {error.filename}: {error.strerror}; {REMEDY}") from error
            # The rights of the opener count since Linux 5.16, so a process without rights can move itself.
            yield partial(_join, fds) if fds else None
        finally:
            await _remove(made)


def _join(fds: list[int]) -> None:
    """Moves the calling process into the cgroups whose cgroup.procs are open."""
    for fd in fds:
        os.write(fd, b"0")


def _unified(own: Own, wanted: list[str]) -> dict[str, Place]:
    """Returns the place of the wanted controllers in v2: the nearest cgroup that can have children with them."""
    for directory in (own.directory, *own.directory.parents):
        if not directory.is_relative_to(own.mount):
            break
        with suppress(OSError):
            is_root = not (directory / "cgroup.type").exists()
            if not is_root and (directory / "cgroup.procs").read_text():
                continue  # "no internal processes": cgroup-v2.rst
            names = [name for name in wanted if name in (directory / "cgroup.controllers").read_text().split()]
            control = directory / "cgroup.subtree_control"
            if not set(names) <= set(control.read_text().split()):
                control.write_text(" ".join(f"+{name}" for name in names))
            if names and os.access(directory, os.W_OK):
                return {name: Place(2, directory) for name in names}
    return {}


def _settings(version: int, controller: str, limits: Limits) -> Iterator[tuple[str, str]]:
    """Yields files of a cgroup and their values. Swap isn't used, so that a full memory doesn't slow down the disk."""
    if controller == "memory" and limits.memory is not None:
        yield "memory.max" if version == 2 else "memory.limit_in_bytes", str(limits.memory)
        yield ("memory.swap.max", "0") if version == 2 else ("memory.memsw.limit_in_bytes", str(limits.memory))
    if controller == "pids" and limits.pids is not None:
        yield "pids.max", str(limits.pids)
    if controller == "cpu" and limits.cpu is not None:
        quota = round(limits.cpu * PERIOD)
        if version == 2:
            yield "cpu.max", f"{quota} {PERIOD}"
        else:
            yield "cpu.cfs_period_us", str(PERIOD)
            yield "cpu.cfs_quota_us", str(quota)


def _set(directory: Path, settings: Iterator[tuple[str, str]]) -> None:
    for name, value in settings:
        if "sw" in name and not (directory / name).exists():  # the kernel doesn't account for swap
            continue
        (directory / name).write_text(value)


def _make(parent: Path) -> tuple[Path, int]:
    """Makes and locks a cgroup. Returns it, and the descriptor that holds the lock."""
    while True:
        directory = parent / f"{PREFIX}{secrets.token_hex(8)}"
        directory.mkdir()
        lock = _lock(directory)
        if lock is not None:
            return directory, lock
        # Another interceptor has found it before it was locked, and removes it.


def _lock(directory: Path) -> int | None:
    """Locks a cgroup. Returns the descriptor that holds the lock; None if it is locked already, or removed."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with suppress(BlockingIOError, FileNotFoundError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.stat(directory), os.fstat(fd)):
            return fd
    os.close(fd)
    return None


def _remove_leftovers(parent: Path) -> None:
    """Removes the cgroups of owners that no longer exist. Those that still have processes are left to a later start."""
    for directory in parent.glob(f"{PREFIX}*"):
        lock = _lock(directory)
        if lock is not None:
            with suppress(OSError):
                directory.rmdir()
            os.close(lock)


async def _remove(made: list[Path]) -> None:
    """Removes cgroups. Polls, since the kernel doesn't report when the last process has left a v1 cgroup."""
    with trio.move_on_after(REMOVE_TIMEOUT, shield=True):
        for directory in made:
            while not _removed(directory):  # noqa: ASYNC110
                await trio.sleep(PAUSE)


def _removed(directory: Path) -> bool:
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _half_of_memory() -> int:
    """Returns half of the memory that we may use, in bytes: of the machine's, or of a limit that we are under."""
    total = int(Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0]) * 1024
    limits = [total]
    hierarchies = own_cgroups(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
    for own in hierarchies:
        name = "memory.limit_in_bytes" if own.controllers else "memory.max"
        for directory in (own.directory, *own.directory.parents):
            with suppress(OSError, ValueError):  # ValueError: "max"
                limits.append(int((directory / name).read_text()))
    return min(limits) // 2


@cache
def _warn(text: str) -> None:
    """Logs a warning, once for each text."""
    log.warning("%s", text)
