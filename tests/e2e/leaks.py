"""LeakSanitizer's check, made when one thread is left and the interpreter hasn't ended.

At the end of the process, Trio's idle worker threads are left, and may end while the check stops all threads and reads
their stacks. Besides, Python's objects are gone then, and with them the only pointers to what nobody ever frees.
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
    """Writes every leak to the sanitizers' log, after making one more: that one must be found."""
    deadline = time.monotonic() + IDLE_THREADS_END
    while len(os.listdir("/proc/self/task")) > 1:
        assert time.monotonic() < deadline, f"threads left: {os.listdir('/proc/self/task')}"
        time.sleep(0.1)
    lose()
    ctypes.CDLL(None).__lsan_do_recoverable_leak_check()


def lose() -> None:
    """The control: tables of names that nobody frees. A pointer to the last may still be in a register."""
    for seed in range(16):
        lib.names_new(seed)


def ours(report: str) -> tuple[list[str], list[str]]:
    """The leaks of the extension in a report: the control's, and others. CPython and others lose some of their own."""
    found = [block for block in BLOCK.findall(report) if OURS.search(block)]
    controls = [block for block in found if "names_new" in block]
    return controls, [block for block in found if block not in controls]
