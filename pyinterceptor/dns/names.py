"""Synthetic addresses: one of each family for every name that a rule serves, per container.

Pure; the caller says what time it is.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass

from pyinterceptor.policy.addresses import Address

V4 = ipaddress.IPv4Network("198.18.0.0/15")  # benchmarking, RFC 2544: nobody's on the internet
V6 = ipaddress.IPv6Network("fd70:7969:6e74:1::/64")  # unique local, RFC 4193
NAMES_MAX = 4096  # a container's
REUSE_AFTER = 3600.0  # seconds since a name was last asked for
FIRST = 256  # offset of the first address in both networks


class NamesFull(Exception):
    """All names are in use: the answer is SERVFAIL."""


@dataclass(slots=True)
class Synthetic:
    """A name's pair of addresses."""

    name: str
    v4: Address
    v6: Address
    asked: float  # seconds


class Names:
    """The synthetic names of one container."""

    def __init__(self) -> None:
        self._by_name: OrderedDict[str, Synthetic] = OrderedDict()

    def pair(self, name: str, now: float) -> Synthetic:
        """The name's addresses, given now if it has none yet.

        Raises: NamesFull.
        """
        known = self._by_name.get(name)
        if known is None:
            known = self._give(name, now)
        known.asked = now
        self._by_name.move_to_end(name)
        return known

    def _give(self, name: str, now: float) -> Synthetic:
        offset = FIRST + len(self._by_name)
        if len(self._by_name) >= NAMES_MAX:
            oldest = next(iter(self._by_name.values()))
            if now - oldest.asked < REUSE_AFTER:
                raise NamesFull(name)
            del self._by_name[oldest.name]
            offset = int(oldest.v4) - int(V4.network_address)
        given = Synthetic(name, V4[offset], V6[offset], now)
        self._by_name[name] = given
        return given
