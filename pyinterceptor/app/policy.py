"""A container class's rules as one immutable policy: the table C reads and the handlers its rule ids stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyinterceptor.app.container import Container, Handler
from pyinterceptor.errors import PolicyError
from pyinterceptor.policy import table
from pyinterceptor.policy.budget import Budget
from pyinterceptor.policy.rules import Rules

CATCH_ALL = "*"  # how the catch-all is called in logs


@dataclass(frozen=True, slots=True)
class Policy:
    """A snapshot: nothing of it changes after it was made."""

    generation: int
    blob: bytes
    handlers: tuple[Handler, ...]
    names: tuple[str, ...]

    def decide(self, protocol: int, host: str, destination: tuple[Any, int]) -> table.Decision:
        """The one matcher's answer, the same that C gets."""
        return table.decide(self.blob, protocol, host, destination)

    def rule_name(self, rule: int) -> str:
        """What decided, for a log line."""
        return self.names[rule] if rule < len(self.names) else "-"


def policy_of(cls: type[Container], generation: int) -> Policy:
    """Reads the class as it stands now.

    Raises: PolicyError for a pattern, network or handler that can't be.
    """
    _check_settings(cls)
    hosts = dict(cls.outbound_by_host)
    handlers, names = list(hosts.values()), list(hosts)
    catch_all = cls.outbound.handler
    if catch_all is not None:
        handlers.append(catch_all)
        names.append(CATCH_ALL)
    rules = Rules(
        hosts={pattern: rule for rule, pattern in enumerate(hosts)},
        catch_all=None if catch_all is None else len(hosts),
        internet=cls.enable_internet,
        local_networks=tuple(cls.local_networks),
    )
    return Policy(generation, table.compile(rules, generation), tuple(handlers), tuple(names))


def _check_settings(cls: type[Container]) -> None:
    """Raises: PolicyError for a setting of another type: misread, it could open what was meant to be closed."""
    internet, networks, image = cls.enable_internet, cls.local_networks, cls.image
    if not isinstance(internet, bool):
        raise PolicyError(f"enable_internet must be True or False, not {internet!r}")
    if isinstance(networks, str) or not all(isinstance(text, str) for text in _items(networks)):
        raise PolicyError(f"local_networks must be a list of networks or addresses, not {networks!r}")
    if image is not None and not (isinstance(image, str) and image):
        raise PolicyError(f"image must be the name of a podman image, not {image!r}")
    if not isinstance(cls.budget, Budget):
        raise PolicyError(f"budget must be a Budget, as in Budget(flows=100), not {cls.budget!r}")


def _items(networks: Any) -> list[Any]:
    try:
        return list(networks)
    except TypeError:
        return [networks]
