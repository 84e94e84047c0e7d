"""The patterns of rules: a host name, a `*` glob, an address or a network, each with an optional port.

Pure.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar

from pyinterceptor.errors import PolicyError
from pyinterceptor.policy.addresses import ADDRESS, Network, network_of, split_port, written
from pyinterceptor.policy.hosts import canonical, is_glob, key
from pyinterceptor.policy.pieces import Pieces, batches, in_order

T = TypeVar("T")
LAST = 4 * ADDRESS  # in the order of a mapping: a glob


class Pattern(NamedTuple):
    """`key` is a canonical name, a glob or a network. `port` is the one that the container dials; 0 stands for any."""

    key: str | Network
    port: int

    @property
    def name(self) -> str | None:
        """The host name that it stands for; None if it is a glob, an address or a network."""
        return self.key if isinstance(self.key, str) and not is_glob(self.key) else None

    @property
    def network(self) -> Network | None:
        """The network that it stands for; None if it is a name or a glob. An address is a network of one address."""
        return None if isinstance(self.key, str) else self.key


def pattern(text: str) -> Pattern:
    """Reads `my.kv`, `*.example`, `203.0.113.7`, `203.0.113.0/24` or `[2001:db8::/32]`, each with `:PORT` or without.

    In a glob, `*` stands for any run of characters, dots included. Brackets are optional if no port follows.

    Raises PolicyError that names the fault.
    """
    if not isinstance(text, str) or not text:
        raise PolicyError(f"a host pattern must be a non-empty string, not {text!r}")
    if "://" in text:
        raise PolicyError(f"host pattern {text!r}: write a host, not a URL")
    try:
        host, port = split_port(text)
        if text.startswith("[") and ":" not in host:
            raise ValueError("only an IPv6 address or network stands in brackets")
    except ValueError as error:
        raise PolicyError(f"host pattern {text!r}: {error}") from error
    return Pattern(_network(host, text) if "/" in host else key(canonical(host)), port)


def _network(host: str, shown: str) -> Network:
    try:
        return network_of(ipaddress.ip_network(host))
    except ValueError as error:
        raise PolicyError(f"host pattern {shown!r}: not a network: {error}") from error


def canonical_pattern(text: str) -> str:
    """Returns the one form of all texts of this pattern. Raises PolicyError that names the fault."""
    found = pattern(text)
    host = found.key if isinstance(found.key, str) else written(found.key)
    if not found.port:
        return host
    return f"[{host}]:{found.port}" if ":" in host else f"{host}:{found.port}"


def ranked(texts: Mapping[str, T]) -> Pieces[list[tuple[Pattern, T]]]:
    """Reads the patterns and sorts them; if several match, the first one answers.

    Names come first, then addresses, networks from the longest to the shortest prefix, and globs as they are declared.
    Before the same name, address or network without a port comes the one with a port.

    Raises PolicyError for a bad pattern, or if two are equal.
    """
    read: dict[Pattern, T] = {}
    for batch in batches(texts.items()):
        for text, value in batch:
            found = pattern(text)
            if found in read:
                raise PolicyError(f"two rules are for {text!r}")
            read[found] = value
        yield
    return (yield from in_order(list(read.items()), _order))


def patterns(texts: Iterable[str]) -> Pieces[list[Pattern]]:
    """Reads the patterns. Raises PolicyError for a bad one."""
    read: list[Pattern] = []
    for batch in batches(texts):
        read += map(pattern, batch)
        yield
    return read


def _order(one: tuple[Pattern, object]) -> int:
    key, port = one[0]
    if isinstance(key, str):
        return LAST if is_glob(key) else port == 0
    return 2 * (1 + ADDRESS - key.prefix) + (port == 0)
