"""Slots: the lock that shows that a container has an owner, and the range of uids that is its own.

A slot is a file, locked with flock(2) while its container lives. A pid would show less: owners in different PID
namespaces share podman's storage and the host's uids, but not their pids. The kernel releases the lock when the
owner ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pyinterceptor.errors import RuntimeFailure
from pyinterceptor.paths import PODMAN

UIDS = 65536  # in each range, as in images
FIRST_UID = 1 << 30  # above the ranges that useradd(8) and systemd give away, below those of the embedded runtime
SLOTS = 4096  # containers at once


@dataclass(frozen=True, slots=True)
class Slot:
    """A locked slot. `directory` is empty, belongs to its container and is removed with it."""

    number: int
    directory: Path

    @property
    def first_uid(self) -> int:
        """The uid, and gid, on the host of the container's root."""
        return FIRST_UID + self.number * UIDS


@contextmanager
def open_slot() -> Iterator[Slot]:
    """Locks a free slot. Raises RuntimeFailure if there is none."""
    for number in range(SLOTS):
        lock = _lock(number)
        if lock is None:
            continue
        directory = PODMAN / f"{number}.files"
        try:
            shutil.rmtree(directory, ignore_errors=True)  # of a killed owner
            directory.mkdir(mode=0o700)
            yield Slot(number, directory)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
            _unlock(number, lock)
        return
    raise RuntimeFailure(f"start a container: {SLOTS} are running already")


@contextmanager
def without_owner(number: int) -> Iterator[bool]:
    """Whether no process holds the slot. If so, none can take it during the block, and its files are removed."""
    lock = _lock(number)
    if lock is None:
        yield False
        return
    try:
        yield True
    finally:
        shutil.rmtree(PODMAN / f"{number}.files", ignore_errors=True)
        _unlock(number, lock)


def left_slots() -> list[int]:
    """Returns the numbers of all slots that have a file, locked or not."""
    return sorted({int(path.name.partition(".")[0]) for path in PODMAN.glob("[0-9]*.*")})


def _lock(number: int) -> int | None:
    """Locks a slot; returns the descriptor that holds the lock. None if another process holds it."""
    path = PODMAN / f"{number}.lock"
    while True:
        try:
            PODMAN.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise RuntimeFailure(f"lock {path}: {error.strerror}; pyinterceptor needs root") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        with suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(fd).st_ino:
                return fd
        os.close(fd)  # its owner has just removed the file


def _unlock(number: int, fd: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(PODMAN / f"{number}.lock")
    os.close(fd)
