"""`pyinterceptor doctor`: the state of this machine, a line a check."""

from __future__ import annotations

import argparse

from pyinterceptor.capture.probe import probe


def doctor(options: argparse.Namespace) -> int:
    """Prints the checks; returns 0 if nothing that is needed is missing, else 1."""
    checks = probe()
    for check in checks:
        print(check)
    return 0 if all(check.ok or check.optional for check in checks) else 1
