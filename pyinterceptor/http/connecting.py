"""Connects a socket from a local port of the container's share, which it gives back when it is closed."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from collections.abc import Callable
from typing import Protocol

import trio

AGAIN = 0.25  # seconds until a connection that found no local port asks for one again
BINDS = 8  # resting ports that one connection tries to bind
IP_LOCAL_PORT_RANGE = 51  # linux/in.h; Linux 6.3


class Port(Protocol):
    """A local port for one connection. `number` must be bound if it isn't 0. `range` is a value of
    IP_LOCAL_PORT_RANGE, 0 if it is unknown."""

    @property
    def number(self) -> int: ...
    @property
    def range(self) -> int: ...
    def give_back(self, fd: int) -> None:
        """Reports that the connection `fd` is about to be closed; -1 if there was none."""


Take = Callable[[str, int], Port | None]  # returns a port for an address and port; None if there is none now


class Connection(socket.socket):
    """A connection that gives its port back when it is closed."""

    port: Port | None = None

    def close(self) -> None:
        port, self.port = self.port, None
        if port is not None:
            port.give_back(self.fileno())
        super().close()


async def connect(take: Take | None, ip: str, port: int) -> socket.socket:
    """Returns a connected, non-blocking TCP socket with TCP_NODELAY. Waits while there is no port for it.
    Without `take`, the kernel chooses one.

    Raises OSError with the errno of connect(2).
    """
    binds = 0
    while True:
        own = None if take is None else await _taken(take, ip, port)
        try:
            return await _connect(own, ip, port)
        except OSError as error:
            binds += 1
            is_taken = error.errno in (errno.EADDRINUSE, errno.EADDRNOTAVAIL)
            if own is None or own.number == 0 or not is_taken or binds > BINDS:
                raise


async def _taken(take: Take, ip: str, port: int) -> Port:
    while True:
        own = take(ip, port)
        if own is not None:
            return own
        await trio.sleep(AGAIN)


def _bind(connection: Connection, own: Port) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if own.range:
        with contextlib.suppress(OSError):  # an older kernel has no such option
            connection.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, own.range.to_bytes(4, sys.byteorder))
    if own.number == 0:
        return
    if connection.family == socket.AF_INET6:
        connection.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    connection.bind(("", own.number))


async def _connect(own: Port | None, ip: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    connection = Connection(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    connection.port = own
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if own is not None:
            _bind(connection, own)
        error = connection.connect_ex((ip, port))
        if error == errno.EINPROGRESS:
            await trio.lowlevel.wait_writable(connection)
            error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
    except BaseException:
        connection.close()
        raise
    return connection
