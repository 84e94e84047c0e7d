"""`run --watch`: puts an app's rules in force again when its file changes."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from pyinterceptor.app.container import Container
from pyinterceptor.app.load import load_app
from pyinterceptor.errors import PolicyError
from pyinterceptor.serving.interceptor import Interceptor

PERIOD = 0.2  # seconds between two looks at the file

Version = tuple[int, int, int]


@asynccontextmanager
async def watching(interceptor: Interceptor, cls: type[Container], path: str) -> AsyncIterator[None]:
    """Watches the app's file while the block lasts."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, interceptor, cls, path, version(path))
        yield
        nursery.cancel_scope.cancel()


async def watch(interceptor: Interceptor, cls: type[Container], path: str, seen: Version | None) -> None:
    """Reads the rules at each change of the file, until cancelled. The result is a line on standard error."""
    while True:
        await trio.sleep(PERIOD)
        now = version(path)
        if now is None or now == seen:  # an editor may be replacing the file
            continue
        seen = now
        try:
            await reload(interceptor, cls, path)
        except PolicyError as error:
            print(f"pyinterceptor: {error}; the rules stay as they were", file=sys.stderr)
        else:
            print(f"pyinterceptor: {path}: its rules are in force", file=sys.stderr)


async def reload(interceptor: Interceptor, cls: type[Container], path: str) -> None:
    """Reads the app's file anew and gives `cls` the rules of its class of the same name.

    Bindings, the image and the budget stay as they were. Raises PolicyError; then nothing has changed.
    """
    known = {found.__name__: found for found in load_app(path).containers}
    if cls.__name__ not in known:
        raise PolicyError(f"{path}: the app has no container class {cls.__name__} any more")
    before = rules_of(cls)
    set_rules(cls, rules_of(known[cls.__name__]))
    try:
        await interceptor.replace_policy(cls)
    except BaseException:
        set_rules(cls, before)
        raise


def rules_of(cls: type[Container]) -> dict[str, object]:
    """Returns the settings of the class that a policy is made of."""
    return {
        "outbound_by_host": dict(cls.outbound_by_host.items()),
        "outbound": cls.outbound.handler,
        "enable_internet": cls.enable_internet,
        "local_networks": cls.local_networks,
    }


def set_rules(cls: type[Container], rules: dict[str, object]) -> None:
    for name, value in rules.items():
        setattr(cls, name, value)


def version(path: str) -> Version | None:
    """Returns values that a change of the file changes; None if there is no such file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
