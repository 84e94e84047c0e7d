"""The files that a container of the embedded runtime has, as its user asks for them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pyinterceptor.arguments import check
from pyinterceptor.runtime.user import User

# Shown read-only. All other directories of the host are hidden: homes, data of services, and their sockets.
SYSTEM = ("bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc", "opt", "nix")
FRESH = ("dev", "proc", "run", "sys", "tmp")  # top-level directories that the container gets new, not from the host
# The parts of an installation that share a directory with data, as in ~/.local and ~/.cargo.
PARTS = ("bin", "sbin", "lib", "lib64", "libexec", "shims", "versions")
WORKDIR = Path("/workspace")  # an empty one of the container's own


@dataclass(frozen=True, slots=True)
class Files:
    """Paths of the host, all absolute and without links.

    `workdir` is writable inside; None stands for an empty directory that ends with the container. `home` is a directory
    that is kept, mounted at the user's home; None stands for an empty one. `show` adds read-only paths, `writable`
    writable ones. `guarded` are paths from which this process loads code: they are read-only in every writable path.

    Raises PolicyError for a path that is no Path, or not absolute.
    """

    workdir: Path | None = None
    home: Path | None = None
    show: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()
    guarded: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        for name, path in (("workdir", self.workdir), ("home", self.home)):
            check(path is None or _is_absolute(path), "Files", name, "an absolute Path, or None", path)
        for name, paths in (("show", self.show), ("writable", self.writable), ("guarded", self.guarded)):
            are_right = isinstance(paths, tuple) and all(map(_is_absolute, paths))
            check(are_right, "Files", name, "a tuple of absolute Paths", paths)

    def all_writable(self) -> tuple[Path, ...]:
        """Returns the writable paths of the host, the working directory included; "/" stays read-only."""
        workdir = () if self.workdir is None or self.workdir == Path("/") else (self.workdir,)
        return (*self.writable, *workdir)

    def hosts_writable(self) -> tuple[Path, ...]:
        """Returns the paths of the host of which the container may change files, a kept home included."""
        return (*self.all_writable(), *(() if self.home is None else (self.home,)))

    def occupied(self) -> dict[Path, str]:
        """Returns the paths that one container can have at a time, each with its use."""
        uses = dict.fromkeys(self.writable, "writable path")
        if self.home is not None:
            uses[self.home] = "home"
        if self.workdir is not None and self.workdir != Path("/"):
            uses[self.workdir] = "working directory"
        return uses


def _is_absolute(path: object) -> bool:
    return isinstance(path, Path) and path.is_absolute()


EMPTY = Files()


def working_in(workdir: str | Path) -> Files:
    """Returns the files of a container with this working directory alone."""
    return Files(workdir=Path(os.path.realpath(workdir)))


def home_of(user: User) -> Path:
    """Returns the path of the user's home inside. It is another than outside if that is a directory of the system."""
    outside = user.environment().get("HOME") or os.environ.get("HOME") or "/"
    home = Path(os.path.realpath(outside))
    if home == Path("/") or home.parts[1] in (*SYSTEM, *FRESH):
        return Path("/home") / (user.name or str(user.uid))
    return home


def installations(path: str, home: Path) -> set[Path]:
    """Returns the directories to show for a PATH: each entry, and the prefix of its installation.

    Of a prefix that is the home or lies directly in it, as ~/.local, only the parts with programs are shown. A virtual
    environment adds the Python that it was made from.
    """
    found: set[Path] = set()
    for entry in filter(os.path.isdir, map(os.path.realpath, filter(os.path.isabs, path.split(os.pathsep)))):
        directory = Path(entry)
        found.add(directory)
        if directory.name not in ("bin", "sbin", "shims"):
            continue
        prefix = directory.parent
        if home.is_relative_to(prefix) or len(prefix.parts) <= 2 or prefix.parent == home:
            found.update(prefix / part for part in PARTS if (prefix / part).is_dir())
        else:
            found.add(prefix)
        base = _base(prefix / "pyvenv.cfg")
        if base is not None and base not in path.split(os.pathsep):
            found |= installations(base, home)
    return {place for place in found if len(place.parts) > 1 and place != home}


def guarded_in(directory: Path, guarded: Iterable[Path]) -> set[Path]:
    """Returns the guarded paths that are or lie in a directory, without those that lie in another one of them."""
    inside = {place for place in guarded if place.is_relative_to(directory)}
    return {place for place in inside if not inside.intersection(place.parents)}


def _base(configuration: Path) -> str | None:
    """Returns the directory of the base interpreter that a virtual environment names: its pyvenv.cfg, `home`."""
    try:
        lines = configuration.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    for line in lines:
        name, _, value = line.partition("=")
        if name.strip() == "home":
            return os.path.realpath(value.strip())
    return None
