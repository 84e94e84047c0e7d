"""The class a user writes: which handlers answer for what a container calls.

`Container.outbound_by_host` and `Container.outbound` are set by assigning or by decorating, on the class or in its
body; subclasses inherit. Nothing here opens or starts anything: the rules are read when a container starts.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pyinterceptor.errors import PolicyError
from pyinterceptor.policy.budget import Budget
from pyinterceptor.web import Request, Response

Handler = Callable[[Request, Any, "Context"], Awaitable[Response] | Response]
H = TypeVar("H", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Context:
    """`ctx` of a handler: whose request this is.

    `container_id` is 64 hex digits made from class and name, the same at every start.
    """

    container_id: str
    container_class: str
    container_name: str


def container_id(class_name: str, name: str) -> str:
    """64 hex digits that stand for this class and name."""
    return hashlib.sha256(f"{class_name}\0{name}".encode()).hexdigest()


class HostHandlers(Mapping[str, Handler]):
    """The handlers of a class by host pattern, its bases' included; called, it decorates one more."""

    def __init__(self, owner: ContainerType) -> None:
        self._owner = owner

    def __call__(self, *patterns: str) -> Callable[[H], H]:
        """`@Sandbox.outbound_by_host("my.kv", "*.internal")`: exact names, addresses or `*` globs."""
        if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
            raise PolicyError('outbound_by_host takes host patterns: @Sandbox.outbound_by_host("my.kv")')

        def register(handler: H) -> H:
            for pattern in patterns:
                self._owner._own_hosts[pattern] = _callable(handler, f"outbound_by_host[{pattern!r}]")
            return handler

        return register

    def _merged(self) -> dict[str, Handler]:
        merged: dict[str, Handler] = {}
        for cls in reversed(self._owner.__mro__):
            merged.update(getattr(cls, "_own_hosts", {}) if isinstance(cls, ContainerType) else {})
        return merged

    def __getitem__(self, pattern: str) -> Handler:
        return self._merged()[pattern]

    def __iter__(self) -> Iterator[str]:
        return iter(self._merged())

    def __len__(self) -> int:
        return len(self._merged())


class CatchAll:
    """The handler for every HTTP request that no host rule answers; called, it decorates it."""

    def __init__(self, owner: ContainerType) -> None:
        self._owner = owner

    def __call__(self, handler: H) -> H:
        self._owner._own_outbound = _callable(handler, "outbound")
        return handler

    @property
    def handler(self) -> Handler | None:
        """The nearest one in the class's bases, or None."""
        for cls in self._owner.__mro__:
            if isinstance(cls, ContainerType) and cls._own_outbound is not _INHERIT:
                nearest: Handler | None = cls._own_outbound
                return nearest
        return None


class _Inherit:
    """Stands for "not said here"."""


_INHERIT: Any = _Inherit()


class ContainerType(type):
    """What lets `Sandbox.outbound = handler` and `@Sandbox.outbound` both be said of a class."""

    _own_hosts: dict[str, Handler]
    _own_outbound: Any

    def __new__(mcs, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> ContainerType:
        hosts = body.pop("outbound_by_host", {})
        outbound = body.pop("outbound", _INHERIT)
        cls = super().__new__(mcs, name, bases, body)
        cls._own_hosts = {}
        cls._own_outbound = _INHERIT
        cls.outbound_by_host = hosts
        if outbound is not _INHERIT:
            cls.outbound = outbound
        return cls

    @property
    def outbound_by_host(cls) -> HostHandlers:
        return HostHandlers(cls)

    @outbound_by_host.setter
    def outbound_by_host(cls, handlers: Mapping[str, Handler]) -> None:
        if not isinstance(handlers, Mapping):
            raise PolicyError(f"{cls.__name__}.outbound_by_host must map host patterns to handlers")
        cls._own_hosts = {
            pattern: _callable(handler, f"outbound_by_host[{pattern!r}]") for pattern, handler in handlers.items()
        }

    @property
    def outbound(cls) -> CatchAll:
        return CatchAll(cls)

    @outbound.setter
    def outbound(cls, handler: Handler | None) -> None:
        cls._own_outbound = None if handler is None else _callable(handler, "outbound")


class Container(metaclass=ContainerType):
    """Subclass it, one class for each kind of workload.

    `enable_internet`: what no rule names is passed through (True) or refused (False).
    `local_networks`: addresses that the dial guard lets this class reach although they are local, as networks
    ("10.1.0.0/16") or single services ("127.0.0.1:5432").
    `budget`: how much of us one container may use at once; what is above is refused, and costs no other container.
    `image`: a podman image to run in; None is the embedded runtime, which shows the host's files read-only.
    """

    enable_internet: bool = True
    local_networks: Sequence[str] = ()
    image: str | None = None
    budget: Budget = Budget()


def _callable(handler: Any, where: str) -> Any:
    if not callable(handler):
        raise PolicyError(f"{where} must be a function (request, env, ctx), not {type(handler).__name__}")
    try:
        inspect.signature(handler).bind(None, None, None)
    except TypeError as error:
        raise PolicyError(f"{where} must take (request, env, ctx): {error}") from error
    except ValueError:
        return handler  # a builtin that doesn't say what it takes
    return handler
