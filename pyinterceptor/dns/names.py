"""Synthetic addresses: one of each family for every name that a rule serves, per container.

Pure; the caller says what time it is.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from pyinterceptor.errors import PolicyError
from pyinterceptor.policy.addresses import Address

NAMES_MAX = 4096  # a container's
REUSE_AFTER = 3600.0  # seconds since a name was last asked for
TRIES = 8  # addresses that flows may turn out to hold, for one name
FIRST = 256  # offset of the first address in both networks


class NamesFull(Exception):
    """All addresses are in use: the answer is SERVFAIL."""


@dataclass(frozen=True, slots=True)
class Networks:
    """Where synthetic addresses come from.

    Raises: PolicyError for networks that have not enough of them.
    """

    v4: ipaddress.IPv4Network
    v6: ipaddress.IPv6Network

    def __post_init__(self) -> None:
        for network in (self.v4, self.v6):
            if network.num_addresses <= FIRST + NAMES_MAX:
                raise PolicyError(f"synthetic network {network}: needs {FIRST + NAMES_MAX} addresses")

    def __contains__(self, address: Address) -> bool:
        return address in self.v4 or address in self.v6


SYNTHETIC = Networks(
    ipaddress.IPv4Network("198.18.0.0/15"),  # benchmarking, RFC 2544: nobody's on the internet
    ipaddress.IPv6Network("fd70:7969:6e74:1::/64"),  # unique local, RFC 4193
)


@dataclass(slots=True)
class Synthetic:
    """A name's pair of addresses."""

    name: str
    v4: ipaddress.IPv4Address
    v6: ipaddress.IPv6Address
    asked: float  # seconds


Publish = Callable[[Synthetic], bool]


class Names:
    """The synthetic names of one container."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self._by_name: OrderedDict[str, Synthetic] = OrderedDict()  # least lately asked first
        self._by_address: dict[Address, str] = {}

    def name_of(self, address: Address) -> str | None:
        """The name that has this address."""
        return self._by_address.get(address)

    def pair(self, name: str, now: float, publish: Publish) -> Synthetic:
        """The name's addresses. A new name's are published first; False says that flows are still open to them.

        Raises: NamesFull.
        """
        known = self._by_name.get(name)
        if known is None:
            known = self._give(name, now, publish)
        self._touch(known, now)
        return known

    def _give(self, name: str, now: float, publish: Publish) -> Synthetic:
        if len(self._by_name) < NAMES_MAX:
            offset = FIRST + len(self._by_name)
            given = Synthetic(name, self._networks.v4[offset], self._networks.v6[offset], now)
            if publish(given):
                return self._keep(given)
            raise NamesFull(name)
        for oldest in list(islice(self._by_name.values(), TRIES)):
            if now - oldest.asked < REUSE_AFTER:
                break
            given = Synthetic(name, oldest.v4, oldest.v6, now)
            if publish(given):
                del self._by_name[oldest.name]
                return self._keep(given)
            self._touch(oldest, now)
        raise NamesFull(name)

    def _keep(self, given: Synthetic) -> Synthetic:
        self._by_name[given.name] = given
        self._by_address[given.v4] = self._by_address[given.v6] = given.name
        return given

    def _touch(self, known: Synthetic, now: float) -> None:
        known.asked = now
        self._by_name.move_to_end(known.name)
