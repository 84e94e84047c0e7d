"""A container of the app: its identity, which lasts as long as the interceptor, and its run, from start to stop.

It is made at the first call for its class and name. It keeps id, instance and rules, also while no run exists.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import trio

from pyinterceptor.app.at_run_time import Edit
from pyinterceptor.app.changes import Changes
from pyinterceptor.app.container import Container, ContainerContext, container_id
from pyinterceptor.app.policies import Policies
from pyinterceptor.app.policy import Overrides, Policy
from pyinterceptor.errors import PolicyError
from pyinterceptor.serving.low_level import ContainerControl, Controlling, Effect
from pyinterceptor.serving.records import Owner
from pyinterceptor.serving.start import Asked

if TYPE_CHECKING:
    from pyinterceptor.serving.handle import ContainerHandle
    from pyinterceptor.serving.run import Run


class Serving(Controlling, Protocol):
    """The interceptor, as its containers see it."""

    async def started(self, identity: Identity, asked: Asked | None = None) -> Run:
        """Returns the container's run; it is started if it does not run."""

    async def change(self, identity: Identity, edit: Edit) -> None:
        """Changes the container's own rules."""


class Identity:
    """The identity of a container. Raises as `instance_of` does."""

    def __init__(
        self,
        cls: type[Container],
        name: str,
        env: Any,
        policy: Policy,
        serving: Serving | None = None,
        exports: Any = None,
    ) -> None:
        self.cls = cls
        self.name = name
        self.id = container_id(cls.__name__, name)
        self.owner = Owner(cls.__name__, name, self.id)  # for its records
        self.asked = Asked()  # for the next start
        self.base = policy  # the class's rules, which are read anew at each start
        self.changes = Changes()  # rules that calls have set
        self.overrides = Overrides()  # rules that end with the run
        self.policies = Policies(policy)
        self.changing = trio.Lock()  # one change of the rules at a time
        self.run: Run | None = None
        self.begun: Effect | None = None  # a start of `self.ctx.container` that goes on
        self.stub: ContainerHandle  # made by the interceptor
        self.starting = trio.Lock()  # one start at a time; other containers have locks of their own
        change = None if serving is None else partial(serving.change, self)
        control = None if serving is None else ContainerControl(self, serving)
        self.exports = exports
        self.instance = instance_of(cls, ContainerContext(self.id, cls.__name__, name, control, exports, change), env)

    def __str__(self) -> str:
        return f"{self.cls.__name__} {self.name!r}"


def instance_of(cls: type[Container], ctx: ContainerContext, env: Any) -> Container:
    """Makes the user's object. Raises PolicyError if its `__init__` raises."""
    try:
        return cls(ctx, env)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise PolicyError(f"make {cls.__name__} {ctx.name!r}: its __init__(self, ctx, env) raised {why}") from error
