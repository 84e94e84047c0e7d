"""The sources of the kernel part: beside the package in a checkout, inside it in an installation."""

from __future__ import annotations

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
