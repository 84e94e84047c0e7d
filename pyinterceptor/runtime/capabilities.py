"""Capabilities (capabilities(7)) of what a thread starts.

A thread's sets are its own. What it executes as uid 0 gets what its bounding and inheritable sets hold, so
with both empty that is nothing, whatever the thread itself can do.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from pyinterceptor.errors import RuntimeFailure

DAC_OVERRIDE = 1
SETGID = 6
SETUID = 7
SYS_ADMIN = 21
VERSION_3 = 0x20080522  # of capset(2)
PR_CAPBSET_DROP = 24
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    """The low 32 capabilities, then the high ones."""

    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def hand_down(*inherited: int) -> None:
    """From now on, what the calling thread executes gets these low capabilities as root, and no others.

    Raises: RuntimeFailure where the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = _Header(VERSION_3, 0), (_Sets * 2)()
    _check(libc.capget(ctypes.byref(header), sets))
    sets[0].inheritable, sets[1].inheritable = sum(1 << capability for capability in inherited), 0
    _check(libc.capset(ctypes.byref(header), sets))
    _check(libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
    for capability in range(int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1):
        _check(libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0))


def _check(result: int) -> None:
    if result != 0:
        raise RuntimeFailure(f"drop capabilities: {os.strerror(ctypes.get_errno())}")
