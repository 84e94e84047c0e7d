"""An internet of the tests' own, in a network namespace beside the host's, on documentation addresses.

    with World() as world: ...     # in a network namespace made for it, as `./dev test` and `./dev demo` do

The host's default routes lead there. It has real servers, each a process of ours that ends with the block:
nginx (80, 443), sshd (22), redis (6379), git over HTTP, DNS (53), and small ones of services.py (echo,
digest, greeting).
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
