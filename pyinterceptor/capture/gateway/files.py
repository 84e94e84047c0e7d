"""Where the sources of the kernel's part lie: beside the package in a checkout, inside it when installed."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from pyinterceptor.errors import CaptureError

PACKAGE = Path(__file__).resolve().parents[2]


def kernel_directory() -> Path:
    """The directory of steer.bpf.c, abi.h and bcc_headers. Raises: CaptureError where it is missing."""
    for candidate in (PACKAGE / "_kernel", PACKAGE.parent / "kernel"):
        if (candidate / "steer.bpf.c").is_file():
            return candidate
    raise CaptureError(
        f"find the kernel program: steer.bpf.c is not in {PACKAGE / '_kernel'}; install the package anew"
    )


@cache
def abi() -> dict[str, int]:
    """The numbers of kernel/abi.h by name."""
    text = (kernel_directory() / "abi.h").read_text()
    return {name: int(number) for name, number in re.findall(r"^#define (\w+) (\d+)", text, re.MULTILINE)}
