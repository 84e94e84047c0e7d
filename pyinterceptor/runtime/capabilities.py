"""Limits the capabilities (capabilities(7)) of the programs that a thread starts.

Each thread has its own sets. A program that it executes as uid 0 gets the capabilities in the thread's bounding and
inheritable sets. With both empty it gets none, even if the thread itself has capabilities.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

from pyinterceptor.errors import RuntimeFailure

DAC_OVERRIDE = 1
SETGID = 6
SETUID = 7
SYS_ADMIN = 21
VERSION_3 = 0x20080522  # _LINUX_CAPABILITY_VERSION_3, capset(2)
PR_CAPBSET_DROP = 24
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4

_libc = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    """Half of a thread's sets. capset(2) takes two of these: the low 32 capabilities, then the high ones."""

    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def hand_down(*inherited: int) -> None:
    """Limits programs that the calling thread executes as root to these capabilities, all of which must be below 32.

    Raises RuntimeFailure if the kernel refuses.
    """
    header, sets = _Header(VERSION_3, 0), (_Sets * 2)()
    _check(_libc.capget(ctypes.byref(header), sets))
    sets[0].inheritable, sets[1].inheritable = sum(1 << capability for capability in inherited), 0
    _check(_libc.capset(ctypes.byref(header), sets))
    _check(_libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
    for capability in range(_last() + 1):
        _check(_libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0))


@cache
def _last() -> int:
    """Returns the number of the kernel's last capability."""
    return int(Path("/proc/sys/kernel/cap_last_cap").read_text())


def _check(result: int) -> None:
    if result != 0:
        raise RuntimeFailure(f"drop capabilities: {os.strerror(ctypes.get_errno())}")
