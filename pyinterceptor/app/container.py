"""The class that a user writes: the handlers and settings of a kind of container.

`Container.outbound_by_host`, `outbound_handlers` and `outbound` are set by assigning or by decorating, on the class or
in its body; subclasses inherit. Nothing here opens or starts anything: the rules are read when a container starts.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Awaitable, Callable, ItemsView, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any, TypeVar

from pyinterceptor.app.at_run_time import Edit, RulesAtRunTime
from pyinterceptor.app.handler import check_handler
from pyinterceptor.app.names import SETTINGS, check_body, check_built_in, check_name, check_value, names_of
from pyinterceptor.errors import PolicyError
from pyinterceptor.policy.budget import Budget
from pyinterceptor.policy.limits import TMP, Limits
from pyinterceptor.web import Request, Response


@dataclass(frozen=True, slots=True)
class Context:
    """`ctx` of a handler: the container whose request it answers, and the rule that gave it the request.

    `container_id` is 64 hex digits made from class and name, the same at every start. `params` are a copy of those of
    the call that set the handler, None without one. `destination` is the address and port that the container dialled.
    `exports` has the app's entrypoint classes: `ctx.exports.Worker(props={…})`.
    """

    container_id: str
    class_name: str
    container_name: str
    params: Any = None
    destination: tuple[IPv4Address | IPv6Address, int] | None = None
    exports: Any = None
    _begin: Callable[[Callable[[], Awaitable[object]]], None] | None = field(default=None, repr=False, compare=False)

    def wait_until(self, function: Callable[..., Awaitable[object]], *arguments: Any) -> None:
        """Calls an async function that goes on after the response, at most until the grace of `stop` is over.

        Its exception is logged. Raises TypeError for anything but an async function.
        """
        if not inspect.iscoroutinefunction(function):
            if inspect.iscoroutine(function):
                function.close()
            raise TypeError(f"wait_until takes an async function, not {function!r}: wait_until(work, argument)")
        if self._begin is None:
            raise RuntimeError("wait_until: the container does not run")
        self._begin(partial(function, *arguments))


Handler = Callable[[Request, Any, Context], Awaitable[Response] | Response]
H = TypeVar("H", bound=Handler)


@dataclass(frozen=True, slots=True)
class ContainerContext:
    """`self.ctx` of a container's instance: its identity.

    `id` is 64 hex digits made from class and name, the same at every start. `container` starts and stops the container
    and intercepts its traffic. `exports` has the app's entrypoint classes: `self.ctx.exports.Worker(props={…})`.
    """

    id: str
    class_name: str
    name: str
    container: Any = None
    exports: Any = None
    _change: Callable[[Edit], Awaitable[None]] | None = field(default=None, repr=False, compare=False)


def container_id(class_name: str, name: str) -> str:
    """Returns the 64 hex digits that identify this class and name."""
    return hashlib.sha256(f"{class_name}\0{name}".encode()).hexdigest()


class Handlers(Mapping[str, Handler]):
    """The handlers of a class and its bases in one setting. Calling it returns a decorator for another handler."""

    setting: str

    def __init__(self, owner: ContainerType) -> None:
        self._owner = owner

    def _add(self, keys: Sequence[str], handler: Handler) -> None:
        own = self._owner._own_handlers[self.setting]
        own.update(_handlers(self.setting, dict.fromkeys(keys, handler), self._owner.__name__))

    def _merged(self) -> dict[str, Handler]:
        merged: dict[str, Handler] = {}
        for cls in reversed(self._owner.__mro__):
            own = cls._own_handlers if isinstance(cls, ContainerType) else vars(cls)
            merged.update(own.get(self.setting, {}))
        return merged

    def __getitem__(self, key: str) -> Handler:
        return self._merged()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._merged())

    def __len__(self) -> int:
        return len(self._merged())

    def items(self) -> ItemsView[str, Handler]:
        """Returns all pairs after one merge; each single look-up merges the handlers of all bases again."""
        return self._merged().items()


class HostHandlers(Handlers):
    """The handlers of a class and its bases by host pattern. Calling it returns a decorator for another handler."""

    setting = "outbound_by_host"

    def __call__(self, *patterns: str) -> Callable[[H], H]:
        """`@Sandbox.outbound_by_host("my.kv", "*.internal")`: exact names, addresses or `*` globs."""
        if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
            raise PolicyError('outbound_by_host takes host patterns: @Sandbox.outbound_by_host("my.kv")')

        def register(handler: H) -> H:
            self._add(patterns, handler)
            return handler

        return register


class NamedHandlers(Handlers):
    """The handlers of a class and its bases that calls at run time name. Calling it decorates another one."""

    setting = "outbound_handlers"

    def __call__(self, handler: H) -> H:
        """`@Sandbox.outbound_handlers`: the function's name is the handler's."""
        name = getattr(handler, "__name__", None)
        if not isinstance(name, str):
            raise PolicyError("outbound_handlers decorates a function, whose name it takes: @Sandbox.outbound_handlers")
        self._add([name], handler)
        return handler


HANDLERS = (HostHandlers.setting, NamedHandlers.setting)


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


def _handlers(setting: str, handlers: Mapping[str, Handler], owner: str) -> dict[str, Handler]:
    if not isinstance(handlers, Mapping):
        keys = "host patterns" if setting == HostHandlers.setting else "names"
        raise PolicyError(f"{owner}.{setting} must map {keys} to handlers")
    for key in handlers:
        if setting == HostHandlers.setting and not isinstance(key, str):
            raise PolicyError(f"{owner}.{setting} must map host patterns, which are str, not {key!r}")
        if setting == NamedHandlers.setting and not (isinstance(key, str) and key):
            raise PolicyError(f"{owner}.{setting}: a handler's name is a non-empty str, not {key!r}")
    return {key: check_handler(handler, f"{setting}[{key!r}]") for key, handler in handlers.items()}


def _catch_all(handler: Handler | None) -> Any:
    return handler if handler is None or handler is _INHERIT else check_handler(handler, "outbound")


def _check_mixin(mixin: type, cls: type) -> None:
    """Raises PolicyError if a plain base has a name that means nothing, or a setting that Container's hides."""
    owner = f"{mixin.__name__}, a base of {cls.__name__}"
    check_body(mixin, vars(mixin), owner)
    for name in vars(mixin):
        check_built_in(name, owner)
    for setting in HANDLERS:
        _handlers(setting, vars(mixin).get(setting, {}), mixin.__name__)
    _catch_all(vars(mixin).get("outbound"))
    bases_after = cls.__mro__[cls.__mro__.index(mixin) :]
    if not any(isinstance(base, ContainerType) for base in bases_after):
        for name in sorted(SETTINGS & vars(mixin).keys()):
            raise PolicyError(f"{name}: without effect in {owner}, after Container; list {mixin.__name__} before it")


class ContainerType(type):
    """The metaclass of containers: `Sandbox.outbound = handler` assigns, `@Sandbox.outbound` decorates.

    Raises PolicyError for a name that means nothing, in a class body, in that of a mixin, or when it is assigned.
    """

    _own_handlers: dict[str, dict[str, Handler]]  # by setting
    _own_outbound: Any

    def __new__(mcs, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> ContainerType:
        # Set before __init_subclass__ and __set_name__ run, because those may assign or decorate handlers.
        rest = {key: value for key, value in body.items() if key not in ("outbound", *HANDLERS)}
        rest["_own_handlers"] = {setting: _handlers(setting, body.get(setting, {}), name) for setting in HANDLERS}
        rest["_own_outbound"] = _catch_all(body.get("outbound", _INHERIT))
        try:
            cls = super().__new__(mcs, name, bases, rest)
        except RuntimeError as error:  # Python 3.11 wraps an exception of __set_name__
            if isinstance(error.__cause__, PolicyError):
                raise error.__cause__ from None
            raise
        check_body(cls, body, name)
        if any(isinstance(base, ContainerType) for base in bases):
            for key in body:
                check_built_in(key, name)
        for mixin in cls.__mro__:
            if not isinstance(mixin, ContainerType) and mixin not in (object, RulesAtRunTime):
                _check_mixin(mixin, cls)
        return cls

    @property
    def outbound_by_host(cls) -> HostHandlers:
        """Handlers by host pattern. A mapping assigned to it replaces those of this class, not those of its bases."""
        return HostHandlers(cls)

    @outbound_by_host.setter
    def outbound_by_host(cls, handlers: Mapping[str, Handler]) -> None:
        cls._own_handlers["outbound_by_host"] = _handlers("outbound_by_host", handlers, cls.__name__)

    @property
    def outbound_handlers(cls) -> NamedHandlers:
        """Handlers by name, for calls at run time. A mapping assigned to it replaces those of this class."""
        return NamedHandlers(cls)

    @outbound_handlers.setter
    def outbound_handlers(cls, handlers: Mapping[str, Handler]) -> None:
        cls._own_handlers["outbound_handlers"] = _handlers("outbound_handlers", handlers, cls.__name__)

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
            check_built_in(name, cls.__name__)
            check_value(name, value, cls.__name__, names_of(cls.__mro__))
            super().__setattr__(name, value)


def limits_of(cls: type[Container]) -> Limits:
    """Returns the limits that the class sets. Raises PolicyError for a wrong value."""
    return Limits(memory=cls.memory, pids=cls.pids, cpu=cls.cpu, tmp=cls.tmp)


class Container(RulesAtRunTime, metaclass=ContainerType):
    """The base class of the user's containers: one subclass for each kind, one instance for each class and name.

    `enable_internet`: traffic that matches no rule is passed through (True) or refused (False).
    `outbound_by_host`: handlers by host pattern. A pattern is a name, a `*` glob, an address or a network, each with an
    optional `:PORT`, as in "my.kv", "*.example:8080", "203.0.113.0/24" or "[2001:db8::1]:443".
    `outbound`: the handler of every HTTP request that no host rule answers.
    `outbound_handlers`: handlers by name, for `set_outbound_by_host` and `set_outbound_handler` at run time.
    `local_networks`: addresses that the dial guard lets this class reach although they are local, as networks
    ("10.1.0.0/16") or single services ("127.0.0.1:5432").
    `budget`: limits on the resources that one container may use at once. A request beyond a limit is refused.
    `memory`, `pids`, `cpu`, `tmp`: limits on the container's memory in bytes (default: half of the memory that we may
    use), its processes and threads (2048), its processors, as 0.5 (all), and its /tmp in bytes (1 GiB, counted as
    memory too). They are read at each start. Without cgroups, a start fails if one of the first three is set.
    `image`: a podman image to run in. None selects the embedded runtime, in which the host's files are read-only.

    Methods, classes, properties, private names and annotated attributes of your own may stand beside them. Any other
    name is an error, so that a misspelt setting can't leave the internet open. Your `async def` methods can be called
    on the container's stub; `on_start` and `on_stop` are called by the interceptor.
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

    async def on_start(self) -> None:
        """Called when the container has started. If it raises, the container is stopped and the start fails so."""

    async def on_stop(self, exit_code: int) -> None:
        """Called when nothing of the container runs any more: 0 after a stop, else the exit code of its process."""

    async def _change(self, edit: Edit) -> None:
        change = self.ctx._change
        if change is None:
            raise PolicyError(f"{type(self).__name__} {self.ctx.name!r} belongs to no interceptor")
        await change(edit)

    if TYPE_CHECKING:  # for assignments in a class body: mypy drops the first parameter there, as of a method
        outbound: Callable[[Any, Context], Awaitable[Response] | Response] | None
        outbound_by_host: Mapping[str, Handler]
        outbound_handlers: Mapping[str, Handler]
    else:

        def __setattr__(self, name: str, value: object) -> None:
            owner = type(self).__name__
            if name in SETTINGS:
                raise PolicyError(f"{name}: a setting of the class, without effect on an instance; set {owner}.{name}")
            check_name(name, owner)
            super().__setattr__(name, value)
