"""What every way of capturing gives: sockets that get the containers' traffic, and whose each interface is."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Attachment:
    """A container's tie to a capture; known before its interface exists.

    `container` is the container's number, `interface` the index of the interface its traffic comes in on.
    """

    container: int
    interface: int
    v4: IPv4Address
    v6: IPv6Address


class Capture(Protocol):
    """`listener` gets the containers' TCP connections, `dns` their UDP datagrams to port 53."""

    listener: socket.socket
    dns: socket.socket

    def reserve(self, container: int) -> Attachment:
        """An attachment with an interface and addresses that no other container has.

        Raises: CaptureError when all addresses are taken.
        """

    async def attach(self, attachment: Attachment, netns_fd: int) -> None:
        """Ties the container's network namespace (borrowed) to the capture.

        Raises: CaptureError, with nothing left behind.
        """

    async def detach(self, attachment: Attachment) -> None:
        """Cuts the container off and frees its attachment; one that is free already is fine."""

    def container_on(self, interface: int) -> int | None:
        """The number of the container whose traffic comes in on the interface; None if it is nobody's."""

    def set_ipv6(self, v6: bool) -> None:
        """Whether the host has a v6 route: without one v6 connections are refused at once."""
