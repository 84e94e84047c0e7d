"""`env`: the app's bindings as handlers see them, opened and closed with the interceptor."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from pyinterceptor.bindings.binding import Binding
from pyinterceptor.bindings.redaction import Redaction
from pyinterceptor.bindings.secret import Secret
from pyinterceptor.errors import PolicyError

VARIABLE = "PYINTERCEPTOR_BINDING_"  # + a binding's name: the environment variable that configures it


class Env:
    """Holds the app's opened bindings as attributes."""

    def __init__(self, bindings: Mapping[str, Any]) -> None:
        self.__dict__.update(bindings)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"unknown binding {name!r}; {known(self.__dict__)}")

    def __repr__(self) -> str:
        return f"<Env {' '.join(sorted(self.__dict__))}>"


def known(bindings: Collection[str]) -> str:
    """Returns the list of binding names that error messages end with."""
    return f"the app's bindings: {', '.join(sorted(bindings)) or 'none'}"


def configured(bindings: Mapping[str, Any], settings: Mapping[str, str]) -> dict[str, Any]:
    """Returns the bindings with `settings` (name → text) applied: a resource moves to the engine that the text names,
    a plain string is replaced by the text.

    Raises PolicyError if a setting's name is not a binding of the app, if its binding refuses the text, or if a binding
    is a class instead of an instance, or is nested inside another value, where it would not be opened.
    """
    result = dict(bindings)
    for name, binding in bindings.items():
        if isinstance(binding, type) and isinstance(binding, Binding):
            raise PolicyError(f"binding {name}: {binding.__name__} is a class; write {binding.__name__}(…)")
        if _has_inside(binding):
            raise PolicyError(f"binding {name}: it contains a resource or Secret; make that a binding")
    for name, text in settings.items():
        if name not in bindings:
            raise PolicyError(f"configure binding {name}: unknown binding; {known(bindings)}")
        binding = bindings[name]
        if isinstance(binding, Binding):
            try:
                result[name] = binding.configured(text)
            except PolicyError as error:
                raise PolicyError(f"configure binding {name}: {error}") from error
        elif isinstance(binding, str):
            result[name] = text
        else:
            kind = type(binding).__name__
            raise PolicyError(f"configure binding {name}: a {kind} can't be configured, only a resource or a str")
    return result


def _has_inside(value: Any) -> bool:
    if isinstance(value, Mapping):
        value = [*value.values()]
    return isinstance(value, list | tuple | set | frozenset) and any(
        isinstance(one, Binding) or _has_inside(one) for one in value
    )


def settings_of(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the settings of bindings (name → text) that the environment variables contain."""
    return {name.removeprefix(VARIABLE): text for name, text in environ.items() if name.startswith(VARIABLE)}


@asynccontextmanager
async def open_env(bindings: Mapping[str, Any], state: Path) -> AsyncIterator[Env]:
    """Opens each binding, closes it when the block ends, and redacts secrets in our log until then."""
    async with AsyncExitStack() as stack:
        opened = dict(bindings)
        for name, binding in bindings.items():
            if isinstance(binding, Binding):
                opened[name] = await stack.enter_async_context(binding.open(name, state))
        if secrets := [value.reveal() for value in opened.values() if isinstance(value, Secret)]:
            log, redaction = logging.getLogger("pyinterceptor"), Redaction(secrets)
            log.addFilter(redaction)
            stack.callback(log.removeFilter, redaction)
        yield Env(opened)
