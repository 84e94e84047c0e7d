"""The gateway's two sockets, which must be created inside its namespace."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress

from pyinterceptor._relay import lib

BACKLOG = 4096
DNS_QUEUE = 16 << 20  # bytes, which the kernel doubles: 14 000 datagrams of 1 500 bytes, each of which occupies 2 304
SO_RCVBUFFORCE = 33  # asm-generic/socket.h; exceeds net.core.rmem_max, which is a setting of the host
# linux/in.h and linux/in6.h; Python's socket module has only some of these
IP_PKTINFO = 8
IP_FREEBIND = 15
IP_RECVORIGDSTADDR = 20
IPV6_RECVPKTINFO = 49
IPV6_RECVORIGDSTADDR = 74


def open_listener() -> socket.socket:
    """Returns a listener for TCP of both families. The kernel program assigns connections to any port to it."""
    listener = _open(socket.SOCK_STREAM)
    # Accepted sockets inherit this: if we are killed, open flows are reset, so no truncated answer looks complete.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited as well
    listener.bind(("::", 0))
    listener.listen(BACKLOG)
    return listener


def open_dns() -> socket.socket:
    """Returns a socket for UDP to port 53 of any address, which can also answer from any address."""
    dns = _open(socket.SOCK_DGRAM)
    # Otherwise an IPv6 answer from an address that isn't ours fails with EINVAL. The IPv4 option covers both families.
    dns.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
    dns.setsockopt(socket.IPPROTO_IP, IP_RECVORIGDSTADDR, 1)
    dns.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVORIGDSTADDR, 1)
    with suppress(PermissionError):  # not allowed in a user namespace: the queue stays short there
        dns.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, DNS_QUEUE)
    dns.bind(("::", lib.DNS_PORT))
    return dns


def _open(kind: socket.SocketKind) -> socket.socket:
    opened = socket.socket(socket.AF_INET6, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    opened.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    opened.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
    return opened
