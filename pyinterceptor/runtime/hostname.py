"""The host name that a container sees as its own. Pure."""

from __future__ import annotations

import re

HOSTNAME_LENGTH = 63  # bytes, a DNS label


def hostname(name: str) -> str:
    """Returns a host name made from the container's name."""
    return re.sub(r"[^A-Za-z0-9-]+", "-", name).strip("-")[:HOSTNAME_LENGTH] or "container"
