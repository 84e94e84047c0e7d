"""The resolver in C, stepped by a task with Trio's clock instead of its own thread, so that tests can jump in time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from pyinterceptor._relay import lib

from pyinterceptor.dns.servers import Servers
from pyinterceptor.dns.upstream import ALONE, Upstream, Ways, open_handle


@asynccontextmanager
async def open_stepped(servers: Servers, ways: Ways = ALONE, **options: int) -> AsyncIterator[Upstream]:
    """Opens the way to the servers until the block ends."""
    async with open_handle(servers, trio.current_time, ways, **options) as upstream, trio.open_nursery() as nursery:
        nursery.start_soon(step, upstream.handle)
        yield upstream
        nursery.cancel_scope.cancel()


async def step(handle: Any) -> None:
    """Does the work of C's thread, until cancelled."""
    while True:
        lib.resolver_step(handle, trio.current_time())
        deadline = lib.resolver_deadline(handle)
        if deadline <= trio.current_time():
            await trio.lowlevel.checkpoint()
            continue
        with trio.move_on_at(deadline):
            await trio.lowlevel.wait_readable(lib.resolver_epoll(handle))
