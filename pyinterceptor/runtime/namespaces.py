"""setns(2) and unshare(2), which the os module has from Python 3.12 on. Both raise OSError."""

from __future__ import annotations

import ctypes
import os

CLONE_NEWTIME = 0x00000080
CLONE_FS = 0x00000200
CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def setns(fd: int, kind: int = 0) -> None:
    """Moves the calling thread into a namespace of this kind (0: any)."""
    _check(_libc.setns(fd, kind))


def unshare(flags: int) -> None:
    """Gives the calling thread new namespaces."""
    _check(_libc.unshare(flags))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
