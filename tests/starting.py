"""Starts a container and returns its stub."""

from __future__ import annotations

from typing import Any

from pyinterceptor import Container, ContainerHandle, Interceptor


async def started(
    interceptor: Interceptor, cls: type[Container], name: str = "default", **asked: Any
) -> ContainerHandle:
    container = interceptor.get_container(cls, name, **asked)
    await container.start()
    return container
