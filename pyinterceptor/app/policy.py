"""A container class's rules as one immutable policy: the table C reads and the handlers that its targets stand for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyinterceptor._relay import lib
from pyinterceptor.app.changes import Changes, Named
from pyinterceptor.app.container import Container, Handler, limits_of
from pyinterceptor.app.entrypoint import Connecting, Fetching
from pyinterceptor.errors import PolicyError
from pyinterceptor.policy import rules, table
from pyinterceptor.policy.addresses import V4_MAPPED, Network
from pyinterceptor.policy.budget import Budget
from pyinterceptor.policy.changes import Answer, Laid, laid_over
from pyinterceptor.policy.layout import Layout, Takes, assembled
from pyinterceptor.policy.metadata import names_metadata
from pyinterceptor.policy.patterns import Pattern, patterns
from pyinterceptor.policy.pieces import Pieces, at_once, batches

CATCH_ALL = "*"  # the name of the catch-all in logs


@dataclass(frozen=True, slots=True)
class Target:
    """A handler, and the params that a call has set for it, as text (app/copies.py).

    A handler that is a `Connecting` takes whole connections.
    """

    handler: Any
    params: str | None = None


@dataclass(frozen=True, slots=True)
class Overrides:
    """Rules that last as long as a run.

    `intercepts` are pairs of a canonical pattern and a handler in order; None stands for everything. `internet`
    replaces the class's enable_internet unless it is None.
    """

    intercepts: Sequence[tuple[str | None, Fetching | Connecting]] = ()
    internet: bool | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """An immutable snapshot of a container's rules."""

    generation: int
    blob: bytes
    targets: tuple[Target, ...]  # by target
    names: tuple[str, ...]  # by rule
    ipv6: frozenset[Network]  # the IPv6 addresses and networks that have a handler of their own
    metadata: bool  # a rule names the address of a cloud's metadata service
    exact: tuple[str, ...]  # names that rules name exactly, if traffic to their real addresses could pass
    layout: Layout
    named: tuple[str, ...]  # all names that rules name exactly
    handlers: Mapping[str, Handler]  # outbound_handlers, by name
    internet: bool
    has_catch_all: bool
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
    named_handlers = dict(cls.outbound_handlers.items())
    handlers, names = list(hosts.values()), list(hosts)
    if catch_all is not None:
        handlers.append(catch_all)
        names.append(CATCH_ALL)
    yield
    targets: list[Target] = []
    for batch in batches(handlers):
        targets += map(Target, batch)
        yield
    read = rules.Rules(
        hosts={pattern: rule for rule, pattern in enumerate(hosts)},
        catch_all=None if catch_all is None else len(hosts),
        internet=internet,
        local_networks=local_networks,
    )
    yield
    layout = yield from rules.laid_out(read)
    yield
    served = yield from patterns(hosts)
    networks, named = yield from _networks_and_names(served)
    metadata = yield from names_metadata(networks, local_networks)
    ipv6 = yield from _ipv6(networks)
    return Policy(
        generation,
        assembled(layout, generation),
        tuple(targets),
        tuple(names),
        ipv6,
        metadata,
        named if internet and catch_all is None else (),
        layout,
        named,
        named_handlers,
        internet,
        catch_all is not None,
    )


def changing(base: Policy, changes: Changes, overrides: Overrides, generation: int) -> Pieces[Policy]:
    """Lays the rules of one container over those of its class, in pieces.

    A handler that `outbound_handlers` no longer has refuses its host. Raises PolicyError for a bad pattern.
    """
    targets, names = list(base.targets), list(base.names)

    def answer(rule: str, target: Target | None) -> Answer:
        names.append(rule)
        if target is None:
            return Answer(len(names) - 1, int(lib.NO_TARGET))
        targets.append(target)
        return Answer(len(names) - 1, len(targets) - 1)

    def kept(rule: str, named: Named) -> Answer:
        handler = base.handlers.get(named.name)
        return answer(rule, None if handler is None else Target(handler, named.params))

    catch_all, intercepts = changes.catch_all, overrides.intercepts
    rows = [(pattern, answer(pattern or CATCH_ALL, Target(handler))) for pattern, handler in intercepts]
    laid = Laid(
        intercepts=rows,
        streams={row[1].rule for row, (_, handler) in zip(rows, intercepts, strict=True) if handler.is_stream},
        hosts={pattern: kept(pattern, named) for pattern, named in changes.by_host.items()},
        catch_all=None if catch_all is None else kept(CATCH_ALL, catch_all),
        internet=overrides.internet,
    )
    yield
    added = targets[len(base.targets) :]
    takes = [Takes.STREAM if isinstance(target.handler, Connecting) else Takes.HTTP for target in added]
    layout = yield from laid_over(base.layout, laid, takes)
    hosts = [*changes.by_host, *(pattern for pattern, _ in intercepts if pattern is not None)]
    served = yield from patterns(hosts)
    networks, added_names = yield from _networks_and_names(served)
    metadata = yield from names_metadata(networks, ())
    ipv6 = yield from _ipv6(networks)
    named = (*base.named, *added_names)
    internet = base.internet if overrides.internet is None else overrides.internet
    all_caught = any(pattern is None for pattern, _ in intercepts)
    has_catch_all = base.has_catch_all or catch_all is not None or all_caught
    return Policy(
        generation,
        assembled(layout, generation),
        tuple(targets),
        tuple(names),
        base.ipv6 | ipv6,
        base.metadata or metadata,
        named if internet and not has_catch_all else (),
        layout,
        named,
        base.handlers,
        internet,
        has_catch_all,
    )


def _networks_and_names(served: Iterable[Pattern]) -> Pieces[tuple[list[Network], tuple[str, ...]]]:
    """Returns the networks of the patterns, and the names that they name exactly."""
    networks: list[Network] = []
    names: list[str] = []
    for batch in batches(served):
        networks += filter(None, (pattern.network for pattern in batch))
        names += filter(None, (pattern.name for pattern in batch))
        yield
    return networks, tuple(names)


def _ipv6(networks: Iterable[Network]) -> Pieces[frozenset[Network]]:
    """Returns the networks that could hold an IPv6 address. ::/0 and its like hold the v4-mapped ones too."""
    found: set[Network] = set()
    for batch in batches(networks):
        found.update(network for network in batch if not network.address.startswith(V4_MAPPED))
        yield
    return frozenset(found)


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
