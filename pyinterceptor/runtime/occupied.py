"""Gives a working directory to one container at a time.

Two containers in one directory could meet there, for example at a socket. The lock is a file of the host's, which
is released when its process ends.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyinterceptor.errors import RuntimeFailure
from pyinterceptor.paths import WORKDIRS


@contextmanager
def occupying(workdir: Path, name: str) -> Iterator[None]:
    """Holds the directory during the block.

    Raises RuntimeFailure, which names the other container, if one has this directory, one above or one below it.
    """
    WORKDIRS.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = WORKDIRS / hashlib.sha256(os.fsencode(workdir)).hexdigest()
    table = os.open(WORKDIRS, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(table, fcntl.LOCK_EX)  # one process at a time reads and writes the table
        for other in WORKDIRS.iterdir():
            _check(other, workdir)
        held = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(held, fcntl.LOCK_EX)
        os.write(held, f"{workdir}\0{name}\0{os.getpid()}".encode(errors="surrogateescape"))
    finally:
        os.close(table)
    try:
        yield
    finally:
        lock.unlink()
        os.close(held)


def _check(other: Path, workdir: Path) -> None:
    """Removes the lock of a process that has ended. Raises RuntimeFailure if it is held and in our way."""
    fd = os.open(other, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        other.unlink()
    except BlockingIOError as error:
        place, name, pid = os.read(fd, 65536).decode(errors="surrogateescape").split("\0")
        if workdir.is_relative_to(place) or Path(place).is_relative_to(workdir):
            raise RuntimeFailure(
                f"use {workdir} as working directory: container {name!r} of process {pid} has {place}; choose another"
            ) from error
    finally:
        os.close(fd)
