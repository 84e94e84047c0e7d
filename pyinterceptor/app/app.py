"""An app: the container classes, and the bindings that their handlers find in `env`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Never

from pyinterceptor.app.container import Container
from pyinterceptor.app.entrypoint import WorkerEntrypoint, check_exports, exported
from pyinterceptor.app.policy import Policy, reading
from pyinterceptor.app.usage import check_bindings
from pyinterceptor.errors import PolicyError
from pyinterceptor.policy.pieces import Pieces, at_once


class App:
    """The container classes and bindings that `open_interceptor` and `pyinterceptor run` work with.

    `App(containers=[Sandbox], bindings={"KV": KV(), "GREETING": "hello"})`: each binding is an attribute of `env` in
    every handler, and no container sees any of them. The first class is the default of `pyinterceptor run`. A class of
    `containers` that is a binding is a namespace in `env`, which gives its containers by name.

    `exports`: WorkerEntrypoint classes beside those of the module that makes the app, for `ctx.exports`.

    Raises PolicyError for a container that is not a subclass of Container, two classes of one name, or a binding
    whose name is not valid in `env`.
    """

    containers: tuple[type[Container], ...]
    bindings: dict[str, Any]
    exports: tuple[type[WorkerEntrypoint], ...]

    def __init__(
        self,
        *misplaced: Never,
        containers: Sequence[type[Container]] = (),
        bindings: Mapping[str, Any] | None = None,
        exports: Sequence[type[WorkerEntrypoint]] = (),
    ) -> None:
        if misplaced:
            raise PolicyError("App takes its arguments by name: App(containers=[Sandbox], bindings={…})")
        self.containers = _containers(containers)
        self.bindings = _bindings({} if bindings is None else bindings)
        self.exports = check_exports(exports)
        self._module = sys._getframe(1).f_globals
        for binding in self.bindings.values():
            if isinstance(binding, type) and issubclass(binding, Container):
                self.check_class(binding)

    def entrypoints(self) -> dict[str, type[WorkerEntrypoint]]:
        """Returns the entrypoint classes by name: `exports`, and those that the module defines which made the app."""
        return exported(self.exports, self._module)

    def check_class(self, cls: object) -> None:
        """Raises PolicyError if this isn't a container class of the app."""
        if cls not in self.containers:
            known = ", ".join(known.__name__ for known in self.containers)
            if isinstance(cls, type):
                raise PolicyError(f"{cls.__name__} is not a container of this app; it has: {known}")
            raise PolicyError(f"{cls!r} is not a container class; pass one of the app's: {known}")

    def policy(self, cls: type[Container], generation: int) -> Policy:
        """Reads the class's current rules.

        Raises PolicyError for an invalid rule, or a handler that uses a binding which the app doesn't have.
        """
        return at_once(self.reading(cls, generation))

    def reading(self, cls: type[Container], generation: int) -> Pieces[Policy]:
        """Reads the rules like `policy`, in pieces."""
        policy = yield from reading(cls, generation)
        checked: set[int] = set()
        ruled = ((name, target.handler) for name, target in zip(policy.names, policy.targets, strict=False))
        named = ((f"outbound_handlers[{name!r}]", handler) for name, handler in policy.handlers.items())
        for name, handler in chain(ruled, named):
            if id(handler) not in checked:
                checked.add(id(handler))
                check_bindings(handler, name, self.bindings)
                yield
        return policy


def _containers(classes: Any) -> tuple[type[Container], ...]:
    if isinstance(classes, str | type | Mapping) or not isinstance(classes, Iterable):
        given = classes.__name__ if isinstance(classes, type) else repr(classes)
        raise PolicyError(f"App(containers=…) takes a list of classes, not {given}; write App(containers=[Sandbox])")
    found = tuple(classes)
    if not found:
        raise PolicyError("an App needs at least one container class: App(containers=[Sandbox])")
    for cls in found:
        if not (isinstance(cls, type) and issubclass(cls, Container)):
            raise PolicyError(f"App(containers=…) takes subclasses of Container, not {cls!r}")
    names = [cls.__name__ for cls in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise PolicyError(f"two container classes are called {twice.pop()}; rename one: a class's name is its identity")
    return found


def _bindings(bindings: Any) -> dict[str, Any]:
    if not isinstance(bindings, Mapping):
        raise PolicyError(f'App(bindings=…) maps names to values, as in {{"KV": KV()}}; {bindings!r} is no mapping')
    for name in bindings:
        if not (isinstance(name, str) and name.isidentifier()):
            raise PolicyError(f"App(bindings=…) maps names that env can have to values; {name!r} is none")
    return dict(bindings)
