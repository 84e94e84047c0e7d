"""Checks and empties a network namespace that another program has created.

An interface that is up, or a route, could lead past the gateway. All steps run on a thread inside the namespace.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from pyinterceptor.capture.gateway.namespace import CLONE_NEWNET, inside
from pyinterceptor.capture.gateway.netlink import HEADER, NLMSG_ERROR, messages, new_batch, open_netlink, send
from pyinterceptor.errors import CaptureError

NS_GET_NSTYPE = 0xB703  # ioctl_ns(2)
RTM_NEWLINK, RTM_GETLINK = 16, 18  # linux/rtnetlink.h
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
NLMSG_DONE = 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x01, 0x04, 0x300
LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg: family, lengths, tos, table, protocol, scope, type, flags
LOCAL = 255  # RT_TABLE_LOCAL: the kernel's own routes, for addresses and multicast
LOOPBACK = 1  # the index of lo in every namespace
UP = 0x1  # IFF_UP
ANSWERS = 1 << 16  # bytes
STEP = "attach a namespace"


@dataclass(frozen=True, slots=True)
class Contents:
    """The indexes of the interfaces that are up, without lo, and the kernel's messages that describe the routes."""

    up: tuple[int, ...]
    routes: tuple[bytes, ...]


def identity(namespace: int) -> tuple[int, int]:
    """Returns device and inode, which no other namespace has while this one exists.

    Raises CaptureError if the descriptor is not that of a network namespace.
    """
    try:
        is_network = fcntl.ioctl(namespace, NS_GET_NSTYPE) == CLONE_NEWNET
    except OSError:
        is_network = False
    if not is_network:
        raise CaptureError(f"{STEP}: the descriptor is not that of a network namespace")
    status = os.fstat(namespace)
    return status.st_dev, status.st_ino


def check_empty(namespace: int) -> None:
    """Raises CaptureError if an interface but lo is up, which the message names, or if there is a route."""
    inside(namespace, _check)


def empty(namespace: int) -> None:
    """Sets every interface but lo down, and deletes every route. Raises CaptureError if that fails."""
    inside(namespace, _empty)


def _check() -> None:
    with open_netlink() as netlink:
        found = _contents(netlink)
    if found.up:
        names = ", ".join(socket.if_indextoname(index) for index in found.up)
        raise CaptureError(f"{STEP}: {names} is up in it and could lead past us; replace_routes=True sets it down")
    if found.routes:
        raise CaptureError(f"{STEP}: it has {len(found.routes)} routes; replace_routes=True deletes them")


def _empty() -> None:
    with open_netlink() as netlink, new_batch() as batch:
        for index in _contents(netlink).up:
            batch.link("set", index=index, state="down")
            send(netlink, batch, f"{STEP}: set its interfaces down")
        for route in _contents(netlink).routes:  # routes without an interface: the kernel has deleted all others
            _delete(netlink, route)
        left = _contents(netlink)
    if left.up or left.routes:
        raise CaptureError(f"{STEP}: its interfaces or routes came back while they were removed")


def _contents(netlink: socket.socket) -> Contents:
    links = (LINK.unpack_from(message, HEADER.size) for message in _dump(netlink, RTM_GETLINK, RTM_NEWLINK, LINK))
    up = tuple(index for _, _, index, flags, _ in links if flags & UP and index != LOOPBACK)
    routes = _dump(netlink, RTM_GETROUTE, RTM_NEWROUTE, ROUTE)
    return Contents(up, tuple(message for message in routes if ROUTE.unpack_from(message, HEADER.size)[4] != LOCAL))


def _dump(netlink: socket.socket, ask: int, answer: int, body: struct.Struct) -> list[bytes]:
    """Returns all messages of this kind, of every family. Raises CaptureError if the kernel refuses."""
    request = HEADER.pack(HEADER.size + body.size, ask, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + bytes(body.size)
    netlink.send(request)
    found: list[bytes] = []
    for kind, message in _answers(netlink):
        if kind == NLMSG_DONE:
            return found
        if kind == NLMSG_ERROR:
            raise CaptureError(f"{STEP}: list its interfaces and routes: {_error(message)}")
        if kind == answer:
            found.append(message)
    raise AssertionError


def _delete(netlink: socket.socket, route: bytes) -> None:
    length = len(route)
    netlink.send(HEADER.pack(length, RTM_DELROUTE, NLM_F_REQUEST | NLM_F_ACK, 1, 0) + route[HEADER.size :])
    for kind, _ in _answers(netlink):
        if kind == NLMSG_ERROR:
            return  # an error is ignored: the caller checks for remaining routes afterwards


def _answers(netlink: socket.socket) -> Iterator[tuple[int, bytes]]:
    while True:
        yield from messages(netlink.recv(ANSWERS))


def _error(message: bytes) -> str:
    return os.strerror(-struct.unpack_from("=i", message, HEADER.size)[0])
