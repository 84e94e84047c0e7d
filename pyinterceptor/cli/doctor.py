"""`pyinterceptor doctor`: checks this machine and prints one line for each check."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator

from pyinterceptor.capture.probe import Check, probe
from pyinterceptor.runtime.cgroups import CONTROLLERS, REMEDY, find_places


def doctor(options: argparse.Namespace) -> int:
    """Prints the checks; returns 0 if every requirement is met, else 1."""
    checks = [*probe(), *limits()]
    for check in checks:
        print(check)
    return 0 if all(check.ok or check.optional for check in checks) else 1


def limits() -> Iterator[Check]:
    """Checks which limits of containers the kernel can enforce. Only root can make cgroups."""
    if os.geteuid() == 0:
        places = find_places()
        for name in CONTROLLERS:
            yield Check(f"cgroups with {name}", name in places, f"to limit {name}: {REMEDY}", optional=True)
