"""The interface of a capture: sockets that get the containers' traffic, and the container behind each interface."""

from __future__ import annotations

import socket
from collections.abc import Set
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from pyinterceptor.policy.addresses import Network


@dataclass(frozen=True, slots=True)
class Attachment:
    """A container's tie to a capture. It is reserved before its interface exists.

    `container` is the container's number. `interface` is the index of the interface on which its traffic arrives.
    """

    container: int
    interface: int
    v4: IPv4Address
    v6: IPv6Address


class Capture(Protocol):
    """`listener` accepts the containers' TCP connections; `dns` receives their UDP datagrams to port 53."""

    listener: socket.socket
    dns: socket.socket

    def reserve(self, container: int) -> Attachment:
        """Returns an attachment with an interface and addresses that no other container has.

        Raises CaptureError if all addresses are taken.
        """

    async def check_namespace(self, netns_fd: int) -> None:
        """Raises CaptureError if an interface but lo is up in the namespace (borrowed), or if it has a route."""

    async def empty_namespace(self, netns_fd: int) -> None:
        """Sets every interface but lo down in the namespace (borrowed), and deletes its routes.

        Raises CaptureError if that fails.
        """

    async def attach(self, attachment: Attachment, netns_fd: int) -> None:
        """Ties the container's network namespace (borrowed) to the capture.

        Raises CaptureError if that fails, or if the namespace is the host's or the capture's own; nothing is left
        behind then.
        """

    async def wait_until_gone(self, attachment: Attachment) -> None:
        """Returns once the container's namespace no longer exists, or the attachment is detached."""

    async def detach(self, attachment: Attachment) -> None:
        """Cuts the container off and frees its attachment. A free attachment is no error."""

    def set_reach(self, attachment: Attachment, *, ipv6: Set[Network], metadata: bool) -> None:
        """Sets the destinations that this container reaches and others don't.

        `ipv6`: the networks that handlers serve, also without an IPv6 route. `metadata`: those of clouds' metadata
        services.
        """

    def set_ipv6(self, v6: bool) -> None:
        """Sets whether the host has an IPv6 route. Without one, IPv6 connections are refused at once."""
