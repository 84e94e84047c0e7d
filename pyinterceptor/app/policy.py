"""A container class's rules as one immutable policy: the table C reads and the handlers that its targets stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyinterceptor.app.container import Container, Handler, limits_of
from pyinterceptor.errors import PolicyError
from pyinterceptor.policy import rules, table
from pyinterceptor.policy.addresses import V4_MAPPED, Network
from pyinterceptor.policy.budget import Budget
from pyinterceptor.policy.hosts import is_glob, key, pattern
from pyinterceptor.policy.metadata import names_metadata
from pyinterceptor.policy.pieces import Pieces, at_once

CATCH_ALL = "*"  # the name of the catch-all in logs


@dataclass(frozen=True, slots=True)
class Policy:
    """An immutable snapshot of a class's rules."""

    generation: int
    blob: bytes
    handlers: tuple[Handler, ...]  # by target
    names: tuple[str, ...]  # by rule
    ipv6: frozenset[bytes]  # the IPv6 addresses that have a handler of their own
    metadata: bool  # a rule names the address of a cloud's metadata service
    exact: tuple[str, ...] = ()  # names that rules name exactly, if traffic to their real addresses could pass
    stages: tuple[str, ...] = rules.STAGES

    def decide(self, protocol: int, host: str, destination: tuple[Any, int] | None) -> table.Decision:
        """Returns the decision of the matcher that C uses, too."""
        return table.decide(self.blob, protocol, host, destination)

    def decide_name(self, host: str) -> int:
        """Returns the most permissive verdict that this name could get, at any address, port and protocol."""
        return table.decide_name(self.blob, host)

    def rule_name(self, rule: int) -> str:
        """Returns the rule's pattern; "-" if no rule has this number."""
        return self.names[rule] if rule < len(self.names) else "-"


def policy_of(cls: type[Container], generation: int) -> Policy:
    """Reads the class's current rules.

    Raises PolicyError for a bad pattern, network, handler or setting.
    """
    return at_once(reading(cls, generation))


def reading(cls: type[Container], generation: int) -> Pieces[Policy]:
    """Reads the rules like `policy_of`, in pieces. The first piece takes the snapshot."""
    _check_settings(cls)
    hosts, catch_all = dict(cls.outbound_by_host.items()), cls.outbound.handler
    internet, local_networks = cls.enable_internet, tuple(cls.local_networks)
    handlers, names = list(hosts.values()), list(hosts)
    if catch_all is not None:
        handlers.append(catch_all)
        names.append(CATCH_ALL)
    yield
    read = rules.Rules(
        hosts={pattern: rule for rule, pattern in enumerate(hosts)},
        catch_all=None if catch_all is None else len(hosts),
        internet=internet,
        local_networks=local_networks,
    )
    yield
    blob = yield from table.compiling(read, generation)
    yield
    metadata = yield from names_metadata(hosts, local_networks)
    addresses = frozenset(filter(None, map(_ipv6_of, hosts)))
    exact = tuple(filter(None, map(_name_of, hosts))) if internet and catch_all is None else ()
    return Policy(generation, blob, tuple(handlers), tuple(names), addresses, metadata, exact)


def _name_of(host: str) -> str | None:
    """Returns the canonical name of a rule for one; None for a rule for an address or a glob."""
    canonical = pattern(host)
    return None if is_glob(canonical) or isinstance(key(canonical), Network) else canonical


def _ipv6_of(host: str) -> bytes | None:
    """Returns the IPv6 address of a rule for one; None for any other rule."""
    found = key(pattern(host)) if ":" in host else None
    is_ipv6 = isinstance(found, Network) and not found.address.startswith(V4_MAPPED)
    return found.address if isinstance(found, Network) and is_ipv6 else None


def _check_settings(cls: type[Container]) -> None:
    """Raises PolicyError for a setting of a wrong type, because treating it as true could allow traffic."""
    internet, networks, image = cls.enable_internet, cls.local_networks, cls.image
    if not isinstance(internet, bool):
        raise PolicyError(f"enable_internet must be True or False, not {internet!r}")
    if isinstance(networks, str) or not all(isinstance(text, str) for text in _items(networks)):
        raise PolicyError(f"local_networks must be a list of networks or addresses, not {networks!r}")
    if image is not None and not (isinstance(image, str) and image):
        raise PolicyError(f"image must be the name of a podman image, not {image!r}")
    if not isinstance(cls.budget, Budget):
        raise PolicyError(f"budget must be a Budget, as in Budget(flows=100), not {cls.budget!r}")
    limits_of(cls)


def _items(networks: Any) -> list[Any]:
    try:
        return list(networks)
    except TypeError:
        return [networks]
