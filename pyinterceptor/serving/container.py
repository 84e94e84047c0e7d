"""A container of the app: its identity, which lasts as long as the interceptor, and its run, from start to stop.

Made when its class and name are first asked for; whether it runs or not, its id, instance and rules are here.
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
    """The container of this class and name.

    Raises: as `instance_of`.
    """

    def __init__(self, cls: type[Container], name: str, env: Any, policy: Policy) -> None:
        self.cls = cls
        self.name = name
        self.id = container_id(cls.__name__, name)
        self.instance = instance_of(cls, ContainerContext(self.id, cls.__name__, name), env)
        self.context = Context(self.id, cls.__name__, name)  # of its handlers
        self.owner = Owner(cls.__name__, name, self.id)  # in records
        self.policies = Policies(policy)  # the class is read anew at each start
        self.run: Run | None = None
        self.starting = trio.Lock()  # one start at a time; other containers have locks of their own

    def __str__(self) -> str:
        return f"{self.cls.__name__} {self.name!r}"


def instance_of(cls: type[Container], ctx: ContainerContext, env: Any) -> Container:
    """The user's own object. Raises: PolicyError if its `__init__` does."""
    try:
        return cls(ctx, env)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise PolicyError(f"make {cls.__name__} {ctx.name!r}: its __init__(self, ctx, env) raised {why}") from error
