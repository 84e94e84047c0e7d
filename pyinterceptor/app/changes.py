"""The rules that calls have set on one container, beside those of its class.

Pure and immutable: each method returns the rules after the call, and raises PolicyError if the call is wrong.
`text_of` and `changes_of` are their form on the disk.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pyinterceptor.app import copies
from pyinterceptor.errors import PolicyError
from pyinterceptor.policy.patterns import canonical_pattern


@dataclass(frozen=True, slots=True)
class Named:
    """A handler of `outbound_handlers` by its name, and its params as text."""

    name: str
    params: str


@dataclass(frozen=True, slots=True)
class Changes:
    """`by_host` maps canonical patterns to handlers."""

    catch_all: Named | None = None
    by_host: Mapping[str, Named] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self != Changes()

    @property
    def names(self) -> dict[str, str]:
        """The handlers' names by rule; the rule of the catch-all is "*"."""
        found = {pattern: named.name for pattern, named in self.by_host.items()}
        return found if self.catch_all is None else {**found, "*": self.catch_all.name}

    def with_handler(self, name: str, params: Any, known: Collection[str]) -> Changes:
        """Sets the catch-all."""
        return replace(self, catch_all=_named("set_outbound_handler", name, params, known))

    def without_handler(self) -> Changes:
        """Removes the catch-all."""
        return replace(self, catch_all=None)

    def with_host(self, host: str, name: str, params: Any, known: Collection[str]) -> Changes:
        """Sets one host's handler. A host that is set already keeps its place among the globs."""
        named = _named(f"set_outbound_by_host({host!r}, …)", name, params, known)
        return replace(self, by_host={**self.by_host, canonical_pattern(host): named})

    def without_host(self, host: str) -> Changes:
        """Removes one host's handler, if it has one."""
        gone = canonical_pattern(host)
        return replace(self, by_host={host: named for host, named in self.by_host.items() if host != gone})

    def with_hosts(self, hosts: Mapping[str, Any], known: Collection[str]) -> Changes:
        """Replaces the handlers of all hosts."""
        if not isinstance(hosts, Mapping):
            raise PolicyError(f"set_outbound_by_hosts takes a mapping of hosts to handlers' names, not {hosts!r}")
        made: dict[str, Named] = {}
        for host, given in hosts.items():
            is_pair = isinstance(given, tuple) and len(given) == 2
            name, params = given if is_pair else (given, None)
            if canonical_pattern(host) in made:
                raise PolicyError(f"set_outbound_by_hosts: two rules are for the host {canonical_pattern(host)!r}")
            made[canonical_pattern(host)] = _named(f"set_outbound_by_hosts, {host!r}", name, params, known)
        return replace(self, by_host=made)


def _named(call: str, name: Any, params: Any, known: Collection[str]) -> Named:
    if not isinstance(name, str) or name not in known:
        listed = ", ".join(sorted(known)) or "none"
        raise PolicyError(f"{call}: unknown handler {name!r}; outbound_handlers has: {listed}")
    return Named(name, copies.text_of(params, f"{call}: params"))


def text_of(changes: Changes) -> str:
    """Returns the rules as text."""
    catch_all = changes.catch_all
    return json.dumps(
        {
            "catch_all": None if catch_all is None else [catch_all.name, catch_all.params],
            "by_host": [[host, named.name, named.params] for host, named in changes.by_host.items()],
        }
    )


def changes_of(text: str) -> Changes:
    """Returns the rules of a text of `text_of`."""
    read = json.loads(text)
    catch_all = read["catch_all"]
    return Changes(
        None if catch_all is None else Named(*catch_all),
        {host: Named(name, params) for host, name, params in read["by_host"]},
    )
