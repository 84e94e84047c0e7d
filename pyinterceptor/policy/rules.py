"""All rules of one container, read and checked.

Pure. The order in which they decide stands in cext/policy.h.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pyinterceptor.errors import PolicyError
from pyinterceptor.policy.addresses import Network, network
from pyinterceptor.policy.hosts import is_glob, pattern


@dataclass(frozen=True, slots=True)
class Rules:
    """`hosts` maps patterns to rule ids; `catch_all` is a rule id or None."""

    hosts: Mapping[str, int]
    catch_all: int | None
    internet: bool
    local_networks: tuple[str, ...] = ()

    def exact(self) -> list[tuple[bytes, int]]:
        """Names and addresses, sorted as the table wants them.

        Raises: PolicyError for a bad pattern, or two that are the same host.
        """
        return sorted((host.encode(), rule) for host, rule in self._patterns().items() if not is_glob(host))

    def globs(self) -> list[tuple[bytes, int]]:
        """Globs in the order they are tried: most literal characters first, then as declared."""
        globs = [(host.encode(), rule) for host, rule in self._patterns().items() if is_glob(host)]
        return sorted(globs, key=lambda glob: glob[0].count(b"*") - len(glob[0]))

    def networks(self) -> list[Network]:
        return [network(text) for text in self.local_networks]

    def _patterns(self) -> dict[str, int]:
        seen: dict[str, int] = {}
        for text, rule in self.hosts.items():
            host = pattern(text)
            if host in seen:
                raise PolicyError(f"two rules are for the host {host!r}")
            seen[host] = rule
        return seen
