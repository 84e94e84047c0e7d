"""Synthetic addresses: each container gets one of each family for every name that a rule serves.

Pure. The caller passes the time.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from pyinterceptor._relay import lib
from pyinterceptor.errors import PolicyError
from pyinterceptor.policy.addresses import Address

NAMES_MAX = int(lib.NAMES_MAX)  # per container: C has no room for more
REUSE_AFTER = 3600.0  # seconds after the last query for a name, when its addresses may go to another name
TRIES = 8  # address pairs to try for one new name; a pair with open flows can't be reused
FIRST = 256  # offset of the first address in both networks


class NamesFull(Exception):
    """All addresses are in use. The query is answered with SERVFAIL."""


@dataclass(frozen=True, slots=True)
class Networks:
    """The networks of the synthetic addresses. Raises PolicyError if one of them is too small."""

    v4: ipaddress.IPv4Network
    v6: ipaddress.IPv6Network

    def __post_init__(self) -> None:
        for network in (self.v4, self.v6):
            if network.num_addresses <= FIRST + NAMES_MAX:
                raise PolicyError(f"synthetic network {network}: more than {FIRST + NAMES_MAX} addresses are needed")

    def __contains__(self, address: Address) -> bool:
        return address in self.v4 or address in self.v6


SYNTHETIC = Networks(
    ipaddress.IPv4Network("198.18.0.0/15"),  # for benchmarks, RFC 2544; not used on the internet
    ipaddress.IPv6Network("fd70:7969:6e74:1::/64"),  # unique local, RFC 4193
)


@dataclass(slots=True)
class Synthetic:
    """A name and its pair of addresses. `asked` is the time of its last query."""

    name: str
    v4: ipaddress.IPv4Address
    v6: ipaddress.IPv6Address
    asked: float  # seconds


Publish = Callable[[Synthetic], bool]


class Names:
    """The synthetic names of one container."""

    def __init__(self, networks: Networks) -> None:
        self.networks = networks
        self._by_name: OrderedDict[str, Synthetic] = OrderedDict()  # the least recently asked first
        self._by_address: dict[Address, str] = {}

    def name_of(self, address: Address) -> str | None:
        """Returns the name that has this address; None if no name has it."""
        return self._by_address.get(address)

    def pair(self, name: str, now: float, publish: Publish) -> Synthetic:
        """Returns the name's addresses. For a new name, they are published first.

        `publish` returns False if flows to these addresses are still open. Raises NamesFull if no pair is free.
        """
        known = self._by_name.get(name)
        if known is None:
            known = self._give(name, now, publish)
        self._touch(known, now)
        return known

    def _give(self, name: str, now: float, publish: Publish) -> Synthetic:
        if len(self._by_name) < NAMES_MAX:
            offset = FIRST + len(self._by_name)
            given = Synthetic(name, self.networks.v4[offset], self.networks.v6[offset], now)
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
