"""`pyinterceptor doctor`: checks this machine and prints one line for each check."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator

from pyinterceptor.capture.probe import Check, probe
from pyinterceptor.runtime.cgroups import CONTROLLERS, REMEDY, find_places
from pyinterceptor.runtime.uids import has_uid_ranges


def doctor(options: argparse.Namespace) -> int:
    """Prints the checks; returns 0 if every requirement is met, else 1."""
    checks = [*probe(), *limits(), *uids()]
    for check in checks:
        print(check)
    return 0 if all(check.ok or check.optional for check in checks) else 1


def limits() -> Iterator[Check]:
    """Checks which limits of containers the kernel can enforce. Only root can make cgroups."""
    if os.geteuid() == 0:
        places = find_places()
        for name in CONTROLLERS:
            yield Check(f"cgroups with {name}", name in places, f"to limit {name}: {REMEDY}", optional=True)


def uids() -> Iterator[Check]:
    """Checks whether root of a container can be a uid of its own outside."""
    if os.geteuid() == 0:
        remedy = "use a kernel with CONFIG_USER_NS, set user.max_user_namespaces above 0, and run in no user namespace"
        remedy = f"for containers that run as root: {remedy}"
        yield Check("a range of uids", has_uid_ranges(), remedy, optional=True)
