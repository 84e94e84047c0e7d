"""A container of the app: its identity, which lasts as long as the interceptor, and its run, from start to stop.

It is made at the first call for its class and name. It keeps id, instance and rules, also while no run exists.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from pyinterceptor.app.container import Container, ContainerContext, Context, container_id
from pyinterceptor.app.policies import Policies
from pyinterceptor.app.policy import Policy
from pyinterceptor.errors import PolicyError
from pyinterceptor.serving.records import Owner

if TYPE_CHECKING:
    from pyinterceptor.serving.run import Run


class Identity:
    """The identity of a container. Raises as `instance_of` does.

    """

    def __init__(self, cls: type[Container], name: str, env: Any, policy: Policy) -> None:
        self.cls = cls
        self.name = name
        self.id = container_id(cls.__name__, name)
        self.instance = instance_of(cls, ContainerContext(self.id, cls.__name__, name), env)
        self.context = Context(self.id, cls.__name__, name)  # for its handlers
        self.owner = Owner(cls.__name__, name, self.id)  # for its records
        self.policies = Policies(policy)  # the class is read anew at each start
        self.run: Run | None = None
        self.starting = trio.Lock()  # one start at a time; other containers have locks of their own

    def __str__(self) -> str:
        return f"{self.cls.__name__} {self.name!r}"


def instance_of(cls: type[Container], ctx: ContainerContext, env: Any) -> Container:
    """Makes the user's object. Raises PolicyError if its `__init__` raises."""
    try:
        return cls(ctx, env)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise PolicyError(f"make {cls.__name__} {ctx.name!r}: its __init__(self, ctx, env) raised {why}") from error
