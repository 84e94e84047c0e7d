"""Creates, enters and pins network namespaces, and mounts the files that keep them and BPF objects alive.

A namespace is entered on a new thread that ends afterwards, so no other code ever runs in the wrong namespace.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pyinterceptor.errors import CaptureError
from pyinterceptor.threads import on_own_thread

CLONE_NEWNET = 0x40000000  # unshare(2)
MS_BIND = 4096  # mount(2)
MNT_DETACH = 2  # umount2(2)

T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)


def inside(namespace: int, step: Callable[[], T]) -> T:
    """Runs `step` in the network namespace of the descriptor `namespace` (borrowed), and returns its result."""

    def run() -> T:
        if _libc.setns(namespace, CLONE_NEWNET):
            raise _failure("enter the network namespace")
        return step()

    return on_own_thread(run)


def make_namespace(path: Path) -> int:
    """Creates a network namespace and mounts it at `path`, where it outlives this process. Returns its descriptor."""

    def run() -> int:
        unshare_network()
        path.touch()
        mount("/proc/thread-self/ns/net", path, "", MS_BIND)
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    return on_own_thread(run)


def unshare_network() -> None:
    """Moves the calling thread into a new network namespace. Only for threads that end right after."""
    if _libc.unshare(CLONE_NEWNET):
        raise _failure("make a network namespace")


def mount(source: str, target: Path, kind: str, flags: int = 0) -> None:
    """mount(2). Raises CaptureError."""
    if _libc.mount(source.encode(), os.fsencode(target), kind.encode(), flags, None):
        raise _failure(f"mount {kind or 'the namespace'} at {target}")


def unmount_all(target: Path) -> None:
    """Unmounts everything that is mounted at `target`. No mount is no error."""
    while _libc.umount2(os.fsencode(target), MNT_DETACH) == 0:
        pass


def _failure(step: str) -> CaptureError:
    number = ctypes.get_errno()
    return CaptureError(f"{step}: {os.strerror(number)}")
