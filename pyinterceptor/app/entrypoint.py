"""Entrypoints: classes of the user's that answer intercepted requests, with props of their own.

`class Gate(WorkerEntrypoint)` has `async def fetch(self, request)`. `self.ctx.exports.Gate(props={…})` makes an
instance, which `self.ctx.container.intercept_outbound_http` takes.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from pyinterceptor.app.container import Context
from pyinterceptor.app.copies import copy_of
from pyinterceptor.errors import PolicyError
from pyinterceptor.web import Request, Response


@dataclass(frozen=True, slots=True)
class EntrypointContext:
    """`self.ctx` of an entrypoint: the props that it was made with, None without any, and the app's entrypoints."""

    props: Any
    exports: Exports


class WorkerEntrypoint:
    """The base class of the user's entrypoints. `self.env` has the app's bindings, `self.ctx.props` the props.

    A subclass defines `async def fetch(self, request)`, which returns a Response, or for
    `intercept_outbound_tcp` `async def connect(self, stream)`, which returns when it has served the connection.
    """

    def __init__(self, ctx: EntrypointContext, env: Any) -> None:
        self.ctx = ctx
        self.env = env

    async def fetch(self, request: Request) -> Response:
        """Answers one request. Raises NotImplementedError unless the subclass defines it."""
        raise NotImplementedError(f"{type(self).__name__} has no fetch(self, request)")

    async def connect(self, stream: Any) -> None:
        """Serves one TCP connection. Raises NotImplementedError unless the subclass defines it.

        `stream` is a Trio stream to the container, with `destination`, the address and port that it dialled, and
        `host`, the name that its DNS gave this address for, or "". It is closed after the call.
        """
        raise NotImplementedError(f"{type(self).__name__} has no connect(self, stream)")


class Exports:
    """The entrypoint classes of an app, as attributes: `exports.Gate(props={"phase": "setup"})` makes an instance."""

    def __init__(self, classes: Mapping[str, type[WorkerEntrypoint]], env: Any) -> None:
        self._classes = classes
        self._env = env

    def __getattr__(self, name: str) -> Export:
        if name not in self._classes:
            listed = ", ".join(sorted(self._classes)) or "none"
            raise AttributeError(f"unknown entrypoint {name!r}; the app exports: {listed}")
        return Export(self._classes[name], self, self._env)


@dataclass(frozen=True, slots=True)
class Export:
    """One entrypoint class of an app; calling it makes an instance."""

    cls: type[WorkerEntrypoint]
    exports: Exports
    env: Any

    def __call__(self, *, props: Any = None) -> WorkerEntrypoint:
        """Makes an instance with a copy of the props. Raises PolicyError if they can't be copied."""
        copied = copy_of(props, f"{self.cls.__name__}(props=…)")
        return self.cls(EntrypointContext(copied, self.exports), self.env)


class Connecting:
    """The target of a row whose worker takes whole connections."""

    is_stream = True

    def __init__(self, worker: Any) -> None:
        self.worker = worker


class Fetching:
    """The handler of a row whose worker answers."""

    is_stream = False

    def __init__(self, worker: Any) -> None:
        self.worker = worker
        self.__wrapped__ = worker.fetch  # where error messages find the code

    def __call__(self, request: Request, env: Any, ctx: Context) -> Awaitable[Response] | Response:
        answer: Awaitable[Response] | Response = self.worker.fetch(request)
        return answer


def fetching(worker: Any) -> Fetching:
    """Returns the handler that gives requests to a worker: an entrypoint, or a binding that has `fetch`.

    Raises PolicyError for anything else.
    """
    _check_worker(worker, "fetch", "request")
    return Fetching(worker)


def connecting(worker: Any) -> Connecting:
    """Returns the target that gives connections to a worker, which has `connect`. Raises PolicyError."""
    _check_worker(worker, "connect", "stream")
    return Connecting(worker)


def _check_worker(worker: Any, name: str, argument: str) -> None:
    if isinstance(worker, type):
        raise PolicyError(f"{worker.__name__} is a class; make an instance: ctx.exports.{worker.__name__}(props={{…}})")
    method = getattr(worker, name, None)
    try:
        if not callable(method) or getattr(type(worker), name, None) is getattr(WorkerEntrypoint, name):
            raise TypeError
        inspect.signature(method).bind(None)
    except TypeError:
        raise PolicyError(f"{worker!r} is no worker: it needs a method {name}({argument})") from None


def exported(named: Iterable[Any], module: Mapping[str, Any]) -> dict[str, type[WorkerEntrypoint]]:
    """Returns an app's entrypoint classes by name: those of `App(exports=…)`, and those that its module defines."""
    classes = {value.__name__: value for value in list(module.values()) if _is_of(value, module.get("__name__"))}
    return classes | {cls.__name__: cls for cls in named}


def check_exports(named: Any) -> tuple[type[WorkerEntrypoint], ...]:
    """Returns the classes of `App(exports=…)`. Raises PolicyError if one is no entrypoint, or two have one name."""
    if isinstance(named, str | type | Mapping) or not isinstance(named, Iterable):
        _refuse(named)
    classes = tuple(named)
    for cls in classes:
        if not (isinstance(cls, type) and issubclass(cls, WorkerEntrypoint)):
            _refuse(cls)
    names = [cls.__name__ for cls in classes]
    if twice := {name for name in names if names.count(name) > 1}:
        raise PolicyError(f"App(exports=…): two classes are called {twice.pop()}; rename one")
    return classes


def _is_of(value: Any, module: Any) -> bool:
    return isinstance(value, type) and issubclass(value, WorkerEntrypoint) and value.__module__ == module


def _refuse(value: Any) -> NoReturn:
    raise PolicyError(f"App(exports=…) takes a list of WorkerEntrypoint classes, not {value!r}")
