"""What a resource promises to the app that names it: a declaration that is opened with the interceptor.

A declaration owns nothing, so that an app can be imported, and opened several times. What opening gives is in `env`.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

EMBEDDED = "embedded:"  # the configuration that means the engine of our own, in `state`


@runtime_checkable
class Binding(Protocol):
    """A value of `App(bindings=…)` that is more than a plain value."""

    def configured(self, text: str) -> Self:
        """The same on the engine that `text` names, mostly a URL. Raises: PolicyError for one it can't be on."""

    def open(self, name: str, state: Path) -> AbstractAsyncContextManager[Any]:
        """What handlers find as `env.<name>`, while the block lasts; what it keeps on disk is below `state`.

        Raises: PolicyError for what is wrong with the declaration, BindingError where the engine can't be reached.
        """
