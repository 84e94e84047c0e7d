"""A container class as a binding: `env.SANDBOX` gives the stubs of its containers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pyinterceptor.app.container import Container, container_id
from pyinterceptor.errors import PolicyError
from pyinterceptor.serving.container import Identity
from pyinterceptor.serving.handle import ContainerHandle

ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ContainerId:
    """The id of a container; `str()` returns its 64 hex digits. `name` is None if it was made from them."""

    text: str
    name: str | None = None

    def __str__(self) -> str:
        return self.text


class ContainerClass:
    """`env.SANDBOX` of `App(bindings={"SANDBOX": Sandbox})`: the containers of one class, by name or id."""

    def __init__(
        self,
        cls: type[Container],
        get_container: Callable[[type[Container], str], ContainerHandle],
        containers: Mapping[tuple[str, str], Identity],
    ) -> None:
        self._cls = cls
        self._get_container = get_container
        self._containers = containers

    def __repr__(self) -> str:
        return f"<containers of {self._cls.__name__}>"

    def get_by_name(self, name: str) -> ContainerHandle:
        """Returns the stub of this name's container, which is not started by it; may be awaited, too."""
        return self._get_container(self._cls, name)

    def id_from_name(self, name: str) -> ContainerId:
        """Returns the id of this name's container. Raises PolicyError for an empty name."""
        if not (isinstance(name, str) and name):
            raise PolicyError(f"a container's name is a non-empty str, not {name!r}")
        return ContainerId(container_id(self._cls.__name__, name), name)

    def id_from_string(self, text: str) -> ContainerId:
        """Returns the id of these 64 hex digits, as `ctx.container_id`. Raises PolicyError for any other text."""
        if not (isinstance(text, str) and ID.fullmatch(text)):
            raise PolicyError(f"a container's id is 64 hex digits, not {text!r}")
        return ContainerId(text)

    def get(self, id: ContainerId) -> ContainerHandle:
        """Returns the stub of this id's container.

        Raises PolicyError if the id was made from digits and no container of the class was ever asked for under its
        name.
        """
        if not isinstance(id, ContainerId):
            raise PolicyError(f"get takes an id of id_from_name or id_from_string, not {id!r}")
        name = id.name or next(
            (known for (_, known), one in self._containers.items() if one.id == id.text and one.cls is self._cls),
            None,
        )
        if name is None or container_id(self._cls.__name__, name) != id.text:
            raise PolicyError(f"no container of {self._cls.__name__} has the id {id}; get_by_name() makes one")
        return self._get_container(self._cls, name)
