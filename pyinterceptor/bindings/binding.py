"""The interface of a binding: a declaration in the app, opened when the interceptor starts.

A declaration owns no resources, so importing an app opens nothing, and one app can be opened several times. `open`
returns the object that handlers see in `env`.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

EMBEDDED = "embedded:"  # the configuration that selects our own engine, which keeps its files below `state`


@runtime_checkable
class Binding(Protocol):
    """A value of `App(bindings=…)` that has to be opened. Any other value reaches `env` unchanged."""

    def configured(self, text: str) -> Self:
        """Returns this declaration on the engine that `text` names, usually by URL.

        Raises PolicyError if the binding has no such engine.
        """

    def open(self, name: str, state: Path) -> AbstractAsyncContextManager[Any]:
        """Yields the object that handlers find as `env.<name>`, and closes it when the block ends.

        Its files are below the directory `state`. Raises PolicyError if the declaration is wrong, and BindingError if
        the engine can't be reached.
        """
