"""Batches of rtnetlink messages, encoded by pyroute2 and sent at once.

A socket belongs to the namespace in which it was created, so the gateway's socket can be used from any namespace.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

from pyinterceptor.errors import CaptureError

NETLINK_ROUTE = 0
NLMSG_ERROR = 2
HEADER = struct.Struct("=IHHII")  # nlmsghdr, netlink(7): length, type, flags, sequence, port
ANSWERS = 1 << 16  # bytes; an acknowledgement repeats the message it is for


def open_netlink() -> socket.socket:
    """Returns an rtnetlink socket of the calling thread's namespace."""
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE)
    opened.bind((0, 0))
    return opened


def new_batch() -> Any:
    """Returns an encoder with pyroute2's methods (link, addr, route, rule, neigh). It is a context manager."""
    from pyroute2 import IPBatch  # here, because the import takes a quarter of a second

    return IPBatch()


def send(to: socket.socket, batch: Any, step: str, *, ignore: frozenset[int] = frozenset()) -> list[bytes]:
    """Sends the messages in the batch and empties it. Waits for all acknowledgements, and returns the other answers.

    Raises CaptureError for the first error whose errno is not in `ignore`.
    """
    messages = bytes(batch.batch)
    batch.reset()
    waiting = len(list(_messages(messages)))
    to.send(messages)
    failed, others = 0, []
    while waiting:
        for kind, message in _messages(to.recv(ANSWERS)):
            if kind != NLMSG_ERROR:
                others.append(message)
                continue
            waiting -= 1
            error = -struct.unpack_from("=i", message, HEADER.size)[0]  # 0: an acknowledgement
            failed = failed or (error if error not in ignore else 0)
    if failed:
        raise CaptureError(f"{step}: {os.strerror(failed)}")
    return others


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields the type and the bytes of each message."""
    at = 0
    while at < len(data):
        length, kind, *_ = HEADER.unpack_from(data, at)
        yield kind, data[at : at + length]
        at += _aligned(length)


def _aligned(length: int) -> int:
    return (length + 3) & ~3
