"""The container's view of the host's files, as arguments of bwrap(1).

The directories of the system and of installed programs are read-only. The working directory, a home and a /tmp are
writable. Hidden directories are not mounted at all: a mount of /run in a container would also keep the namespaces and
pins alive that are mounted below it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from pyinterceptor.errors import RuntimeFailure
from pyinterceptor.paths import HOSTS, RESOLV_CONF, RUN, STATE
from pyinterceptor.runtime.files import FRESH, SYSTEM, WORKDIR, Files, guarded_in, installations
from pyinterceptor.runtime.mounts import mounted
from pyinterceptor.runtime.walk import make_file, walk

VAR = ("/var/lib/dpkg", "/var/cache/fontconfig")  # the parts of /var that describe installed programs
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


class View:
    """The mounts of one container. `fresh` are its new directories, which its user must be made the owner of."""

    def __init__(
        self, files: Files, protected: Sequence[Path], home: Path, resolv_conf_fd: int, hosts_fd: int, tmp: int
    ) -> None:
        """`protected` are paths that are read-only in every writable path, beside the guarded ones.

        bwrap reads the container's resolv.conf and hosts from the descriptors. `tmp` is the size of /tmp in bytes, and
        those of /var/tmp and /dev/shm.

        Raises RuntimeFailure if a path is unusable.
        """
        self.workdir = files.workdir or WORKDIR
        self._files, self._protected, self._home, self._tmp = files, protected, home, tmp
        self._mounts: dict[str, list[str]] = {}
        self._closing: list[str] = []
        self.fresh: list[Path] = []
        self._show()
        self._make_writable()
        for place, words in [*_hidden_kernels(self.shown()), *_fresh(tmp), *_proc()]:
            if place != "/tmp" or place not in self._mounts:  # the working directory may be /tmp
                self._mounts[place] = words
        self._mounts |= dict(_secrets())
        self._hide_state()
        self._write_names(resolv_conf_fd, hosts_fd)

    def complete_home(self) -> None:
        """Makes the mount points that a kept home lacks: bwrap can't, where the owners of its files are translated.

        Raises RuntimeFailure if an earlier container has put a link in their place.
        """
        kept = self._files.home
        if kept is None:
            return
        for place in map(Path, self._mounts):
            if place == self._home or not place.is_relative_to(self._home):
                continue
            inside = place.relative_to(self._home)
            try:
                if place.is_dir():
                    with walk(kept, inside, make=True):
                        pass
                else:
                    make_file(kept, inside)
            except OSError as error:
                reason = f"{error.filename} must be no link, and no file where a directory is needed"
                raise RuntimeFailure(f"use the kept home {kept}: {reason} ({error.strerror})") from error

    def arguments(self) -> list[str]:
        """Returns bwrap's arguments."""
        # Mount deeper paths later, so that no mount covers one that another argument has made.
        mounts = sorted({**self._parents(), **self._mounts}.items(), key=lambda mount: len(Path(mount[0]).parts))
        closing = ["--remount-ro", "/run", *self._closing, "--remount-ro", "/", "--chdir", "/"]
        return [*(word for _, words in mounts for word in words), *closing]

    def _parents(self) -> dict[str, list[str]]:
        """Returns the directories above the mounts. Those that bwrap makes by itself can be closed to other users."""
        parents = {str(parent) for place in self._mounts for parent in Path(place).parents[:-1]}
        return {parent: ["--perms", "0755", "--dir", parent] for parent in parents}

    def _show(self) -> None:
        top = set(os.listdir("/"))
        self._mounts |= dict(_read_only("/", top - set(SYSTEM)))
        shown = [Path(place) for place in VAR if os.path.isdir(place)]
        tools = installations(os.environ.get("PATH", ""), self._home)
        tools = {place for place in tools if place.parts[1] not in SYSTEM and not _is_hidden(place)}
        for place in [*shown, *tools, *self._files.show]:
            _check(place)
            self._mounts[str(place)] = ["--ro-bind", str(place), str(place)]
        if os.path.islink("/var/run"):
            self._mounts["/var/run"] = ["--symlink", "/run", "/var/run"]
        self._mounts["/var/tmp"] = ["--perms", "1777", "--size", str(self._tmp), "--tmpfs", "/var/tmp"]

    def _make_writable(self) -> None:
        files, home = self._files, self._home
        writable = files.all_writable()
        if files.workdir is None:
            self._add_fresh(WORKDIR)
        if home in writable:
            pass  # the user asked for the home of the host
        elif files.home is not None:
            self._mounts[str(home)] = ["--bind", str(files.home), str(home)]
            self.fresh.append(home)
        elif home.is_dir() or not any(home.is_relative_to(place) for place in writable):
            self._add_fresh(home)
        for place in writable:
            _check(place)
            if place == Path("/"):
                raise RuntimeFailure("make / writable in the container: name a directory below it")
            read_only = guarded_in(place, [*files.guarded, *self._protected])
            self._mounts[str(place)] = ["--ro-bind" if place in read_only else "--bind", str(place), str(place)]
            for inner in read_only - {place}:
                self._guard(inner, place)
        self._own_parents()

    def _add_fresh(self, place: Path) -> None:
        self._mounts[str(place)] = ["--perms", "0700", "--tmpfs", str(place)]
        self.fresh.append(place)

    def _own_parents(self) -> None:
        """Adds the directories that bwrap makes in the home for mounts below it, as ~/.cargo for ~/.cargo/bin."""
        if self._home not in self.fresh:
            return
        for place in map(Path, list(self._mounts)):
            if not place.is_relative_to(self._home):
                continue
            for parent in reversed(place.parents[: len(place.parts) - len(self._home.parts) - 1]):
                if str(parent) in self._mounts:
                    break
                if parent not in self.fresh:
                    self.fresh.append(parent)

    def _guard(self, path: Path, root: Path) -> None:
        """Makes a path in a writable directory read-only.

        The directories between them become mounts too: otherwise one could be renamed, and another put in its place.
        """
        self._mounts[str(path)] = ["--ro-bind", str(path), str(path)]
        for parent in path.parents:
            if parent == root:
                break
            self._mounts.setdefault(str(parent), ["--bind", str(parent), str(parent)])

    def shown(self) -> list[Path]:
        """Returns the paths at which files of the host are seen."""
        return [Path(place) for place, words in self._mounts.items() if "--tmpfs" not in words]

    def _hide_state(self) -> None:
        state = os.path.realpath(STATE)  # it may be a link to a larger disk
        if any(Path(state).is_relative_to(place) for place in self.shown()):
            self._mounts[state] = ["--tmpfs", state, "--remount-ro", state]

    def _write_names(self, resolv_conf_fd: int, hosts_fd: int) -> None:
        places = [place_of(RESOLV_CONF), place_of(HOSTS)]
        if None in places:
            etc = str(HOSTS.parent)
            names = [os.path.basename(path) for path in (RESOLV_CONF, HOSTS)]
            self._mounts[etc] = ["--perms", "0755", "--tmpfs", etc]
            self._mounts |= {**dict(_read_only(etc, names)), **dict(_secrets())}
            self._closing += ["--remount-ro", etc]
            places = [str(RESOLV_CONF), str(HOSTS)]
        for place, fd in zip(places, (resolv_conf_fd, hosts_fd), strict=True):
            assert place is not None
            self._mounts[place] = ["--perms", "0644", "--ro-bind-data", str(fd), place]


def _secrets() -> Iterator[Mount]:
    """Yields a mount over each file that not all users may read, and each socket: the container may run as root."""
    for directory, names, files in os.walk("/etc"):
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


def _hidden_kernels(shown: Collection[Path]) -> Iterator[Mount]:
    """Yields an empty mount over each file system in KERNELS that the container would see."""
    for mount in mounted():
        place = str(mount.place)
        is_seen = any(mount.place.is_relative_to(root) for root in shown)
        if mount.kind in KERNELS and is_seen and _is_on(place, mount.device):
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


def _fresh(tmp: int) -> Iterator[Mount]:
    yield "/run", ["--perms", "0755", "--tmpfs", "/run"]
    yield "/tmp", ["--perms", "1777", "--size", str(tmp), "--tmpfs", "/tmp"]
    yield "/sys", ["--perms", "0755", "--tmpfs", "/sys", "--remount-ro", "/sys"]
    yield "/dev", ["--dev", "/dev"]
    yield "/dev/shm", ["--perms", "1777", "--size", str(tmp), "--tmpfs", "/dev/shm"]


def _proc() -> Iterator[Mount]:
    yield "/proc", ["--proc", "/proc"]
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal() or entry.is_symlink():
            continue
        if entry.name in PROC_MASKED:
            yield entry.path, _emptied(entry.path)
        elif entry.is_dir() or entry.stat().st_mode & 0o222:
            yield entry.path, ["--ro-bind", entry.path, entry.path]


def _check(place: Path) -> None:
    if not place.exists():
        raise RuntimeFailure(f"show {place} in the container: no such file or directory")
    if _is_hidden(place):
        raise RuntimeFailure(f"show {place} in the container: it is hidden from containers")


def _is_hidden(place: Path) -> bool:
    return place == Path("/run") or any(place.is_relative_to(hidden) for hidden in UNUSABLE)
