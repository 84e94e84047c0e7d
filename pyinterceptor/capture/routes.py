"""Watches whether the host has a route to IPv6 addresses."""

from __future__ import annotations

import socket
from collections.abc import Callable

import trio

from pyinterceptor._relay import lib
from pyinterceptor.capture.gateway.netlink import open_notices

ROUTES_OF_IPV6 = 0x400  # RTMGRP_IPV6_ROUTE, linux/rtnetlink.h
NOTICE = 1 << 16  # bytes


def has_ipv6() -> bool:
    """Whether the host has an IPv6 route now."""
    return bool(lib.relay_has_route(socket.AF_INET6))


async def follow_ipv6(tell: Callable[[bool], None]) -> None:
    """Calls `tell` with has_ipv6() at once and after each change. Never returns."""
    with open_notices(ROUTES_OF_IPV6) as notices:
        told: bool | None = None
        while True:
            if (now := has_ipv6()) != told:
                tell(now)
                told = now
            await trio.lowlevel.wait_readable(notices)
            _take_all(notices)


def _take_all(notices: socket.socket) -> None:
    """Discards all pending notices. Their content isn't needed, because the caller looks the route up again; so a
    notice that the kernel dropped (ENOBUFS) does no harm either."""
    while True:
        try:
            notices.recv(NOTICE)
        except BlockingIOError:
            return
        except OSError:
            continue
