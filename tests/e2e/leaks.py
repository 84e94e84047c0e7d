"""Runs LeakSanitizer's check while one thread is left and the interpreter has not ended.

At the end of the process Trio's idle worker threads remain, and may end while the check stops all threads and reads
their stacks. Besides, Python's objects no longer exist then, and they hold the only pointers to memory that is never
freed on purpose.
"""

from __future__ import annotations

import ctypes
import os
import re
import time

from pyinterceptor._relay import lib

IDLE_THREADS_END = 30.0  # seconds; Trio's end after 10
OURS = re.compile(r" cext/|/_relay\.")  # in a stack
BLOCK = re.compile(r"^(?:Direct|Indirect) leak of .*?(?:\n\n|\Z)", re.MULTILINE | re.DOTALL)


def check() -> None:
    """Leaks memory as a control, which must be found, and writes every leak to the sanitizers' log."""
    deadline = time.monotonic() + IDLE_THREADS_END
    while len(os.listdir("/proc/self/task")) > 1:
        assert time.monotonic() < deadline, f"threads left: {os.listdir('/proc/self/task')}"
        time.sleep(0.1)
    lose()
    ctypes.CDLL(None).__lsan_do_recoverable_leak_check()


def lose() -> None:
    """Leaks tables of names, as the control. A pointer to the last one may still be in a register."""
    for seed in range(16):
        lib.names_new(seed)


def ours(report: str) -> tuple[list[str], list[str]]:
    """Returns the extension's leaks in a report: the control's, and the others. Leaks of CPython are left out."""
    found = [block for block in BLOCK.findall(report) if OURS.search(block)]
    controls = [block for block in found if "names_new" in block]
    return controls, [block for block in found if block not in controls]
