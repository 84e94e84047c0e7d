"""`pyinterceptor doctor`: checks this machine and prints one line for each check."""

from __future__ import annotations

import argparse

from pyinterceptor.capture.probe import probe


def doctor(options: argparse.Namespace) -> int:
    """Prints the checks; returns 0 if every requirement is met, else 1."""
    checks = probe()
    for check in checks:
        print(check)
    return 0 if all(check.ok or check.optional for check in checks) else 1
