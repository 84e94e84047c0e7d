"""The gateway's two sockets; made inside its namespace."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress

from pyinterceptor.capture.gateway.files import abi

BACKLOG = 4096
DNS_QUEUE = 4 << 20  # bytes, which the kernel doubles and of which a datagram of 1 500 takes 2 304
SO_RCVBUFFORCE = 33  # asm-generic/socket.h; past net.core.rmem_max, which is the host's
# linux/in.h and linux/in6.h; Python's socket module has only some of them
IP_PKTINFO = 8
IP_FREEBIND = 15
IP_RECVORIGDSTADDR = 20
IPV6_RECVPKTINFO = 49
IPV6_RECVORIGDSTADDR = 74


def open_listener() -> socket.socket:
    """Takes TCP of both families, of any port: the program assigns it."""
    listener = _open(socket.SOCK_STREAM)
    # Inherited by what is accepted: when we are killed open flows are reset; no answer cut short looks complete.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited, too
    listener.bind(("::", 0))
    listener.listen(BACKLOG)
    return listener


def open_dns() -> socket.socket:
    """Takes UDP to port 53 of any address, and may answer from there."""
    dns = _open(socket.SOCK_DGRAM)
    # Else an IPv6 answer from an address that isn't ours is EINVAL. (The IPv4 option serves both.)
    dns.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
    dns.setsockopt(socket.IPPROTO_IP, IP_RECVORIGDSTADDR, 1)
    dns.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVORIGDSTADDR, 1)
    with suppress(PermissionError):  # in a user namespace it is the host's to say, and the queue stays short
        dns.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, DNS_QUEUE)
    dns.bind(("::", abi()["DNS_PORT"]))
    return dns


def _open(kind: socket.SocketKind) -> socket.socket:
    opened = socket.socket(socket.AF_INET6, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    opened.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    opened.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
    return opened
