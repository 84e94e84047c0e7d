"""`env`: what an app's handlers have at hand, opened with the interceptor and closed with it."""

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
    """The app's bindings as attributes."""

    def __init__(self, bindings: Mapping[str, Any]) -> None:
        self.__dict__.update(bindings)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no binding is called {name!r}; {known(self.__dict__)}")

    def __repr__(self) -> str:
        return f"<Env {' '.join(sorted(self.__dict__))}>"


def known(bindings: Collection[str]) -> str:
    """For a message that says what there is."""
    return f"the app's bindings: {', '.join(sorted(bindings)) or 'none'}"


def configured(bindings: Mapping[str, Any], settings: Mapping[str, str]) -> dict[str, Any]:
    """The bindings as `settings` (name → text) has them: a resource on another engine, a plain text replaced.

    Raises: PolicyError for a name that the app doesn't have, a text that its binding can't be, a resource's class where
    one of it is meant, or a resource where it wouldn't be opened.
    """
    result = dict(bindings)
    for name, binding in bindings.items():
        if isinstance(binding, type) and isinstance(binding, Binding):
            raise PolicyError(f"binding {name}: it is the class {binding.__name__}; write {binding.__name__}(…)")
        if _has_inside(binding):
            raise PolicyError(f"binding {name}: a resource or Secret inside another value; give it a name of its own")
    for name, text in settings.items():
        if name not in bindings:
            raise PolicyError(f"configure binding {name}: no binding is called so; {known(bindings)}")
        binding = bindings[name]
        if isinstance(binding, Binding):
            try:
                result[name] = binding.configured(text)
            except PolicyError as error:
                raise PolicyError(f"configure binding {name}: {error}") from error
        elif isinstance(binding, str):
            result[name] = text
        else:
            raise PolicyError(f"configure binding {name}: it is a {type(binding).__name__} of the app's own")
    return result


def _has_inside(value: Any) -> bool:
    if isinstance(value, Mapping):
        value = [*value.values()]
    return isinstance(value, list | tuple | set | frozenset) and any(
        isinstance(one, Binding) or _has_inside(one) for one in value
    )


def settings_of(environ: Mapping[str, str]) -> dict[str, str]:
    """What environment variables say of bindings."""
    return {name.removeprefix(VARIABLE): text for name, text in environ.items() if name.startswith(VARIABLE)}


@asynccontextmanager
async def open_env(bindings: Mapping[str, Any], state: Path) -> AsyncIterator[Env]:
    """Opens each; while the block lasts, our log strikes out what is secret."""
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
