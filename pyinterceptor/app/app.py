"""An app: the container classes and what their handlers find in `env`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyinterceptor.app.container import Container
from pyinterceptor.app.policy import Policy, reading
from pyinterceptor.app.usage import check_bindings
from pyinterceptor.errors import PolicyError
from pyinterceptor.policy.pieces import Pieces, at_once


class App:
    """What `open_interceptor` and `pyinterceptor run` are given."""

    def __init__(self, *, containers: Sequence[type[Container]], bindings: Mapping[str, Any] | None = None) -> None:
        if not containers:
            raise PolicyError("an App needs at least one container class: App(containers=[Sandbox])")
        for cls in containers:
            if not (isinstance(cls, type) and issubclass(cls, Container)):
                raise PolicyError(f"App(containers=…) takes subclasses of Container, not {cls!r}")
        names = [cls.__name__ for cls in containers]
        if twice := {name for name in names if names.count(name) > 1}:
            raise PolicyError(f"two container classes are called {twice.pop()}: a class's name is its identity")
        self.containers = tuple(containers)
        for binding in bindings or {}:
            if not (isinstance(binding, str) and binding.isidentifier()):
                raise PolicyError(f"App(bindings=…) maps names that env can have to values; {binding!r} is none")
        self.bindings = dict(bindings or {})

    def policy(self, cls: type[Container], generation: int) -> Policy:
        """The class's rules as they stand now.

        Raises: PolicyError for rules that can't be, or a handler that uses a binding which the app doesn't have.
        """
        return at_once(self.reading(cls, generation))

    def reading(self, cls: type[Container], generation: int) -> Pieces[Policy]:
        """The same, in pieces."""
        policy = yield from reading(cls, generation)
        checked: set[int] = set()
        for name, handler in zip(policy.names, policy.handlers, strict=True):
            if id(handler) not in checked:
                checked.add(id(handler))
                check_bindings(handler, name, self.bindings)
                yield
        return policy
