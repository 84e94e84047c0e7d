"""Batches of rtnetlink messages, encoded by pyroute2 and sent at once.

A socket belongs to the namespace in which it was created, so the gateway's socket can be used from any namespace.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import Any

from pyinterceptor.errors import CaptureError

NETLINK_ROUTE = 0
NLMSG_ERROR = 2
HEADER = struct.Struct("=IHHII")  # nlmsghdr, netlink(7): length, type, flags, sequence, port
RTM_DELLINK = 17  # linux/rtnetlink.h
INDEX = struct.Struct("=4xi")  # of an ifinfomsg
SIOCGIFNAME = 0x8910
ANSWERS = 1 << 16  # bytes; an acknowledgement repeats the message it is for


def open_notices(groups: int) -> socket.socket:
    """Returns a non-blocking rtnetlink socket that receives the notices of these groups, in the thread's namespace."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    opened = socket.socket(socket.AF_NETLINK, kind, NETLINK_ROUTE)
    opened.bind((0, groups))
    return opened


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
    request = bytes(batch.batch)
    batch.reset()
    waiting = len(list(messages(request)))
    to.send(request)
    failed, others = 0, []
    while waiting:
        for kind, message in messages(to.recv(ANSWERS)):
            if kind != NLMSG_ERROR:
                others.append(message)
                continue
            waiting -= 1
            error = -struct.unpack_from("=i", message, HEADER.size)[0]  # 0: an acknowledgement
            failed = failed or (error if error not in ignore else 0)
    if failed:
        raise CaptureError(f"{step}: {os.strerror(failed)}")
    return others


def links_gone(notices: socket.socket, watched: Iterable[int]) -> set[int]:
    """Reads all pending notices. Returns the indexes of those watched interfaces that no longer exist."""
    is_complete, deleted = True, set[int]()
    while True:
        try:
            received = notices.recv(ANSWERS)
        except BlockingIOError:
            break
        except OSError:  # ENOBUFS: the kernel has dropped some
            is_complete = False
        else:
            found = messages(received)
            deleted |= {INDEX.unpack_from(message, HEADER.size)[0] for kind, message in found if kind == RTM_DELLINK}
    return {index for index in watched if index in deleted or not (is_complete or _exists(notices, index))}


def _exists(netlink: socket.socket, index: int) -> bool:
    """Whether the socket's namespace has this interface: netdevice(7)."""
    try:
        fcntl.ioctl(netlink, SIOCGIFNAME, struct.pack("=16si20x", b"", index))
    except OSError:
        return False
    return True


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields the type and the bytes of each message."""
    at = 0
    while at < len(data):
        length, kind, *_ = HEADER.unpack_from(data, at)
        yield kind, data[at : at + length]
        at += _aligned(length)


def _aligned(length: int) -> int:
    return (length + 3) & ~3
