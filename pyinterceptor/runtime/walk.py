"""Directories that are reached without following a link, since a container may have planted one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def walk(root: Path, relative: Path, *, make: bool = False) -> Iterator[int]:
    """Opens the directory at a relative path. `make`: makes it, and those above it, where they are missing.

    Raises OSError, with the path below `root`: a component is a link, or isn't there.
    """
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    reached = Path()
    try:
        for part in relative.parts:
            reached /= part
            try:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(part, 0o755, dir_fd=fd)
                inner = os.open(part, DIRECTORY, dir_fd=fd)
            except OSError as error:
                raise OSError(error.errno, os.strerror(error.errno or 0), str(reached)) from None
            os.close(fd)
            fd = inner
        yield fd
    finally:
        os.close(fd)


def make_file(root: Path, relative: Path) -> None:
    """Makes an empty file at a relative path, and the directories above it, unless a file is there.

    Raises OSError as walk() does.
    """
    flags = os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with walk(root, relative.parent, make=True) as parent:
        try:
            os.close(os.open(relative.name, flags, 0o644, dir_fd=parent))
        except OSError as error:
            raise OSError(error.errno, os.strerror(error.errno or 0), str(relative)) from None
