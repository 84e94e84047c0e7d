"""Gives each writable path of the host to one container at a time.

Two containers that write in one directory could meet there, for example at a socket. The lock is a file of the host's,
which is released when its process ends.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pyinterceptor.errors import RuntimeFailure
from pyinterceptor.paths import WORKDIRS


@contextmanager
def occupying(uses: Mapping[Path, str], name: str) -> Iterator[None]:
    """Holds the paths during the block, for the container `name`. Maps each to its use, for the error.

    Raises RuntimeFailure, which names the other container, if one has such a path, one above or one below it.
    """
    WORKDIRS.mkdir(mode=0o700, parents=True, exist_ok=True)
    with ExitStack() as stack:
        table = os.open(WORKDIRS, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(table, fcntl.LOCK_EX)  # one process at a time reads and writes the table
            for other in WORKDIRS.iterdir():
                _check(other, uses)
            for path in uses:
                _hold(stack, path, name)
        finally:
            os.close(table)
        yield


def _hold(stack: ExitStack, path: Path, name: str) -> None:
    lock = WORKDIRS / hashlib.sha256(os.fsencode(path)).hexdigest()
    held = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    stack.callback(os.close, held)
    fcntl.flock(held, fcntl.LOCK_EX)
    stack.callback(lock.unlink)
    os.write(held, f"{path}\0{name}\0{os.getpid()}".encode(errors="surrogateescape"))


def _check(other: Path, uses: Mapping[Path, str]) -> None:
    """Removes the lock of a process that has ended. Raises RuntimeFailure if it is held and in our way."""
    fd = os.open(other, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        other.unlink()
    except BlockingIOError as error:
        place, name, pid = os.read(fd, 65536).decode(errors="surrogateescape").split("\0")
        for path, use in uses.items():
            if path.is_relative_to(place) or Path(place).is_relative_to(path):
                raise RuntimeFailure(
                    f"use {path} as {use}: container {name!r} of process {pid} has {place}; choose another"
                ) from error
    finally:
        os.close(fd)
