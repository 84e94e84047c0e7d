"""The sources of the kernel part: beside the package in a checkout, inside it in an installation."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from pyinterceptor.errors import CaptureError

PACKAGE = Path(__file__).resolve().parents[2]


def kernel_directory() -> Path:
    """Returns the directory of steer.bpf.c, abi.h and bcc_headers. Raises CaptureError if it is missing."""
    for candidate in (PACKAGE / "_kernel", PACKAGE.parent / "kernel"):
        if (candidate / "steer.bpf.c").is_file():
            return candidate
    raise CaptureError(
        f"find the kernel program: steer.bpf.c is not in {PACKAGE / '_kernel'}; reinstall pyinterceptor"
    )


@cache
def abi() -> dict[str, int]:
    """Returns the constants of kernel/abi.h by name."""
    text = (kernel_directory() / "abi.h").read_text()
    return {name: int(number) for name, number in re.findall(r"^#define (\w+) (\d+)", text, re.MULTILINE)}
