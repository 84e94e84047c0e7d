"""Synthetic addresses: each container gets one of each family for every name that a rule serves.

Pure. The caller passes the time.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from pyinterceptor._relay import lib
from pyinterceptor.arguments import check
from pyinterceptor.dns.answers import TTL
from pyinterceptor.errors import PolicyError
from pyinterceptor.policy.addresses import Address

NAMES_MAX = int(lib.NAMES_MAX)  # per container: C has no room for more
MARGIN = 60.0  # seconds beyond the TTL of an answer, since clients exceed it
REUSE_AFTER = TTL + MARGIN  # seconds after the last query for a name, when its addresses may go to another name
FIRST = 256  # offset of the first address in both networks


class NamesFull(Exception):
    """All addresses are in use. The query is answered with SERVFAIL."""


@dataclass(frozen=True, slots=True)
class Networks:
    """The networks of the synthetic addresses. Raises PolicyError if one of them is too small."""

    v4: ipaddress.IPv4Network
    v6: ipaddress.IPv6Network

    def __post_init__(self) -> None:
        is_v4, is_v6 = isinstance(self.v4, ipaddress.IPv4Network), isinstance(self.v6, ipaddress.IPv6Network)
        check(is_v4, "Networks", "v4", "an ipaddress.IPv4Network", self.v4)
        check(is_v6, "Networks", "v6", "an ipaddress.IPv6Network", self.v6)
        for network in (self.v4, self.v6):
            if network.num_addresses <= FIRST + NAMES_MAX:
                raise PolicyError(f"synthetic network {network}: more than {FIRST + NAMES_MAX} addresses are needed")

    def __contains__(self, address: Address) -> bool:
        return address in self.v4 or address in self.v6


SYNTHETIC = Networks(
    ipaddress.IPv4Network("198.18.0.0/15"),  # for benchmarks, RFC 2544; not used on the internet
    ipaddress.IPv6Network("fd70:7969:6e74:1::/64"),  # unique local, RFC 4193
)


class Synthetic:
    """A name and its pair of addresses, as their offset in both networks. `asked` is the time of its last query."""

    __slots__ = ("asked", "name", "networks", "offset")

    def __init__(self, name: str, networks: Networks, offset: int, asked: float) -> None:
        self.name = name
        self.networks = networks
        self.offset = offset
        self.asked = asked  # seconds

    @property
    def v4(self) -> ipaddress.IPv4Address:
        return self.networks.v4[self.offset]

    @property
    def v6(self) -> ipaddress.IPv6Address:
        return self.networks.v6[self.offset]

    def packed(self, version: int) -> bytes:
        """Returns one of the addresses in network byte order."""
        network = self.networks.v4 if version == 4 else self.networks.v6
        return (int(network.network_address) + self.offset).to_bytes(4 if version == 4 else 16, "big")


Publish = Callable[[Synthetic], bool]


class Names:
    """The synthetic names of one container, at most `limit`."""

    def __init__(self, networks: Networks, limit: int | None = None) -> None:
        self.networks = networks
        self._limit = NAMES_MAX if limit is None else min(limit, NAMES_MAX)
        self._by_name: OrderedDict[str, Synthetic] = OrderedDict()  # the least recently used first
        self._by_offset: list[Synthetic] = []  # less FIRST

    def name_of(self, address: Address) -> str | None:
        """Returns the name that has this address; None if no name has it."""
        network = self.networks.v4 if address.version == 4 else self.networks.v6
        at = int(address) - int(network.network_address) - FIRST
        return self._by_offset[at].name if 0 <= at < len(self._by_offset) else None

    def pair(self, name: str, now: float, publish: Publish) -> Synthetic:
        """Returns the name's addresses. For a new name, they are published first.

        `publish` returns False if flows to these addresses are still open. If all addresses are taken, the least
        recently used name without flows gives its own, REUSE_AFTER its last query. Raises NamesFull if there is none.
        """
        known = self._by_name.get(name)
        if known is None:
            known = self._give(name, now, publish)
        self._touch(known, now)
        return known

    def _give(self, name: str, now: float, publish: Publish) -> Synthetic:
        if len(self._by_name) < self._limit:
            given = Synthetic(name, self.networks, FIRST + len(self._by_name), now)
            if not publish(given):
                raise NamesFull(name)
            self._by_offset.append(given)
            self._by_name[name] = given
            return given
        # A name with flows counts as used now, so the loop passes each of them once in REUSE_AFTER.
        for _ in range(len(self._by_name)):
            oldest = next(iter(self._by_name.values()))
            if now - oldest.asked < REUSE_AFTER:
                break
            given = Synthetic(name, self.networks, oldest.offset, now)
            if publish(given):
                del self._by_name[oldest.name]
                self._by_name[name] = self._by_offset[given.offset - FIRST] = given
                return given
            self._touch(oldest, now)
        raise NamesFull(name)

    def _touch(self, known: Synthetic, now: float) -> None:
        known.asked = now
        self._by_name.move_to_end(known.name)
