"""The class that a user writes: the handlers and settings of a kind of container.

`Container.outbound_by_host` and `Container.outbound` are set by assigning or by decorating, on the class or in its
body; subclasses inherit. Nothing here opens or starts anything: the rules are read when a container starts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, ItemsView, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pyinterceptor.app.handler import check_handler
from pyinterceptor.app.names import SETTINGS, check_body, check_name, check_value, names_of
from pyinterceptor.errors import PolicyError
from pyinterceptor.policy.budget import Budget
from pyinterceptor.policy.limits import TMP, Limits
from pyinterceptor.web import Request, Response


@dataclass(frozen=True, slots=True)
class Context:
    """`ctx` of a handler: the container whose request it answers.

    `container_id` is 64 hex digits made from class and name, the same at every start.
    """

    container_id: str
    class_name: str
    container_name: str


Handler = Callable[[Request, Any, Context], Awaitable[Response] | Response]
H = TypeVar("H", bound=Handler)


@dataclass(frozen=True, slots=True)
class ContainerContext:
    """`self.ctx` of a container's instance: its identity.

    `id` is 64 hex digits made from class and name, the same at every start.
    """

    id: str
    class_name: str
    name: str


def container_id(class_name: str, name: str) -> str:
    """Returns the 64 hex digits that identify this class and name."""
    return hashlib.sha256(f"{class_name}\0{name}".encode()).hexdigest()


class HostHandlers(Mapping[str, Handler]):
    """The handlers of a class and its bases by host pattern. Calling it returns a decorator for another handler."""

    def __init__(self, owner: ContainerType) -> None:
        self._owner = owner

    def __call__(self, *patterns: str) -> Callable[[H], H]:
        """`@Sandbox.outbound_by_host("my.kv", "*.internal")`: exact names, addresses or `*` globs."""
        if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
            raise PolicyError('outbound_by_host takes host patterns: @Sandbox.outbound_by_host("my.kv")')

        def register(handler: H) -> H:
            self._owner._own_hosts.update(_by_host(dict.fromkeys(patterns, handler), self._owner.__name__))
            return handler

        return register

    def _merged(self) -> dict[str, Handler]:
        merged: dict[str, Handler] = {}
        for cls in reversed(self._owner.__mro__):
            merged.update(cls._own_hosts if isinstance(cls, ContainerType) else vars(cls).get("outbound_by_host", {}))
        return merged

    def __getitem__(self, pattern: str) -> Handler:
        return self._merged()[pattern]

    def __iter__(self) -> Iterator[str]:
        return iter(self._merged())

    def __len__(self) -> int:
        return len(self._merged())

    def items(self) -> ItemsView[str, Handler]:
        """Returns all pairs after one merge; each single look-up merges the handlers of all bases again."""
        return self._merged().items()


class CatchAll:
    """The handler of every HTTP request that no host rule answers. Calling it decorates that handler."""

    def __init__(self, owner: ContainerType) -> None:
        self._owner = owner

    def __call__(self, handler: H) -> H:
        """`@Sandbox.outbound`"""
        self._owner._own_outbound = check_handler(handler, "outbound")
        return handler

    @property
    def handler(self) -> Handler | None:
        """The handler of the nearest class in the method resolution order, or None."""
        for cls in self._owner.__mro__:
            own = cls._own_outbound if isinstance(cls, ContainerType) else vars(cls).get("outbound", _INHERIT)
            if own is not _INHERIT:
                nearest: Handler | None = own
                return nearest
        return None


class _Inherit:
    """The value of a setting that a class inherits from its bases."""


_INHERIT: Any = _Inherit()


def _by_host(handlers: Mapping[str, Handler], owner: str) -> dict[str, Handler]:
    if not isinstance(handlers, Mapping):
        raise PolicyError(f"{owner}.outbound_by_host must map host patterns to handlers")
    return {pattern: check_handler(handler, f"outbound_by_host[{pattern!r}]") for pattern, handler in handlers.items()}


def _catch_all(handler: Handler | None) -> Any:
    return handler if handler is None or handler is _INHERIT else check_handler(handler, "outbound")


def _check_mixin(mixin: type, cls: type) -> None:
    """Raises PolicyError if a plain base has a name that means nothing, or a setting that Container's hides."""
    owner = f"{mixin.__name__}, a base of {cls.__name__}"
    check_body(mixin, vars(mixin), owner)
    _by_host(vars(mixin).get("outbound_by_host", {}), mixin.__name__)
    _catch_all(vars(mixin).get("outbound"))
    bases_after = cls.__mro__[cls.__mro__.index(mixin) :]
    if not any(isinstance(base, ContainerType) for base in bases_after):
        for name in sorted(SETTINGS & vars(mixin).keys()):
            raise PolicyError(f"{name}: without effect in {owner}, after Container; list {mixin.__name__} before it")


class ContainerType(type):
    """The metaclass of containers: `Sandbox.outbound = handler` assigns, `@Sandbox.outbound` decorates.

    Raises PolicyError for a name that means nothing, in a class body, in that of a mixin, or when it is assigned.
    """

    _own_hosts: dict[str, Handler]
    _own_outbound: Any

    def __new__(mcs, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> ContainerType:
        # Set before __init_subclass__ and __set_name__ run, because those may assign or decorate handlers.
        rest = {key: value for key, value in body.items() if key not in ("outbound", "outbound_by_host")}
        rest["_own_hosts"] = _by_host(body.get("outbound_by_host", {}), name)
        rest["_own_outbound"] = _catch_all(body.get("outbound", _INHERIT))
        try:
            cls = super().__new__(mcs, name, bases, rest)
        except RuntimeError as error:  # Python 3.11 wraps an exception of __set_name__
            if isinstance(error.__cause__, PolicyError):
                raise error.__cause__ from None
            raise
        check_body(cls, body, name)
        for mixin in cls.__mro__:
            if not isinstance(mixin, ContainerType) and mixin is not object:
                _check_mixin(mixin, cls)
        return cls

    @property
    def outbound_by_host(cls) -> HostHandlers:
        """Handlers by host pattern. A mapping assigned to it replaces those of this class, not those of its bases."""
        return HostHandlers(cls)

    @outbound_by_host.setter
    def outbound_by_host(cls, handlers: Mapping[str, Handler]) -> None:
        cls._own_hosts = _by_host(handlers, cls.__name__)

    @property
    def outbound(cls) -> CatchAll:
        """The handler of every HTTP request that no host rule answers; None, assigned to it, removes a base's."""
        return CatchAll(cls)

    @outbound.setter
    def outbound(cls, handler: Handler | None) -> None:
        cls._own_outbound = _catch_all(handler)

    if not TYPE_CHECKING:  # mypy would otherwise allow any arguments, and an assignment to any name

        def __call__(cls, *args, **kwargs):
            if not args and not kwargs:
                name = cls.__name__
                raise PolicyError(f"the interceptor makes the instances of {name}; pass the class {name}, not {name}()")
            return super().__call__(*args, **kwargs)

        def __setattr__(cls, name: str, value: object) -> None:
            check_name(name, cls.__name__)
            check_value(name, value, cls.__name__, names_of(cls.__mro__))
            super().__setattr__(name, value)


def limits_of(cls: type[Container]) -> Limits:
    """Returns the limits that the class sets. Raises PolicyError for a wrong value."""
    return Limits(memory=cls.memory, pids=cls.pids, cpu=cls.cpu, tmp=cls.tmp)


class Container(metaclass=ContainerType):
    """The base class of the user's containers: one subclass for each kind.

    `enable_internet`: traffic that matches no rule is passed through (True) or refused (False).
    `outbound_by_host`: handlers by host pattern: exact names, addresses, `*` globs.
    `outbound`: the handler of every HTTP request that no host rule answers.
    `local_networks`: addresses that the dial guard lets this class reach although they are local, as networks
    ("10.1.0.0/16") or single services ("127.0.0.1:5432").
    `budget`: limits on the resources that one container may use at once. A request beyond a limit is refused.
    `memory`, `pids`, `cpu`, `tmp`: limits on the container's memory in bytes (default: half of the memory that we may
    use), its processes and threads (2048), its processors, as 0.5 (all), and its /tmp in bytes (1 GiB, counted as
    memory too). They are read at each start. Without cgroups, a start fails if one of the first three is set.
    `image`: a podman image to run in. None selects the embedded runtime, in which the host's files are read-only.

    Methods, classes, properties, private names and annotated attributes of your own may stand beside them. Any other
    name is an error, so that a misspelt setting can't leave the internet open.
    """

    enable_internet: bool = True
    local_networks: Sequence[str] = ()
    image: str | None = None
    budget: Budget = Budget()
    memory: int | None = None
    pids: int | None = None
    cpu: float | None = None
    tmp: int = TMP

    def __init__(self, ctx: ContainerContext, env: Any) -> None:
        """Made once for each class and name, before the first start; kept while the interceptor is open.

        `env` holds the app's bindings. A subclass that overrides it calls `super().__init__(ctx, env)`.
        """
        self.ctx = ctx
        self.env = env

    if TYPE_CHECKING:  # for assignments in a class body: mypy drops the first parameter there, as of a method
        outbound: Callable[[Any, Context], Awaitable[Response] | Response] | None
        outbound_by_host: Mapping[str, Handler]
    else:

        def __setattr__(self, name: str, value: object) -> None:
            owner = type(self).__name__
            if name in SETTINGS:
                raise PolicyError(f"{name}: a setting of the class, without effect on an instance; set {owner}.{name}")
            check_name(name, owner)
            super().__setattr__(name, value)
