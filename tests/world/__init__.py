"""A private internet for the tests, in a network namespace beside the host's, with documentation addresses.

    with World() as world: ...     # inside a temporary network namespace, such as `./dev test` and `./dev demo` create

The host's default routes lead into it. It has real servers, each a child process that ends with the block: nginx (80,
443), sshd (22), redis (6379), git over HTTP, DNS (53), and the small servers of services.py (echo, digest, greeting).
packages.py adds indexes for npm, pip and apt.
"""

from tests.world.world import (
    DEAD_V6,
    NAMESERVER_V4,
    NAMESERVER_V6,
    ORIGIN_V4,
    ORIGIN_V6,
    OTHER_V4,
    OTHER_V6,
    Counts,
    World,
)

__all__ = [
    "DEAD_V6",
    "NAMESERVER_V4",
    "NAMESERVER_V6",
    "ORIGIN_V4",
    "ORIGIN_V6",
    "OTHER_V4",
    "OTHER_V6",
    "Counts",
    "World",
]
