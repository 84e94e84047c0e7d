"""A temporary container for kernel tests: a network namespace, and the network calls of programs in it."""

from __future__ import annotations

import functools
import os
import socket
import struct
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Any, TypeVar

import trio

from pyinterceptor.capture.gateway.namespace import inside, unshare_network
from pyinterceptor.threads import on_own_thread

T = TypeVar("T")
DEADLINE = 5.0  # seconds; every successful call needs far less
AT_ONCE = 0.2  # seconds; some client gives up before a later refusal
PKTOPTIONS = 6  # IPV6_2292PKTOPTIONS


def in_trio(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Makes a test of an async function."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        trio.run(functools.partial(test, **fixtures))

    return run


@dataclass(frozen=True, slots=True)
class Refusal:
    """The error of a refused connection or datagram, and the seconds until it came."""

    error: str
    seconds: float


@dataclass(frozen=True, slots=True)
class BareContainer:
    """A network namespace. Only its descriptor and its sockets keep it alive."""

    fd: int

    def run(self, step: Callable[[], T]) -> T:
        return inside(self.fd, step)

    def command(self, *argv: str) -> str:
        """Runs a program inside. Returns its standard output."""
        return self.run(lambda: subprocess.run(argv, capture_output=True, text=True, check=True).stdout)

    def connect(self, address: str, port: int) -> socket.socket:
        """Connects from inside. DEADLINE applies to each later call on the socket as well."""

        def step() -> socket.socket:
            opened = socket.socket(family(address), socket.SOCK_STREAM)
            opened.settimeout(DEADLINE)
            try:
                opened.connect((address, port))
            except OSError:
                opened.close()
                raise
            return opened

        return self.run(step)

    def refusal(self, address: str, port: int) -> Refusal:
        """Connects, and returns the refusal. Raises AssertionError if the connection succeeds."""
        start = time.monotonic()
        try:
            self.connect(address, port).close()
        except OSError as error:
            return Refusal(type(error).__name__, time.monotonic() - start)
        raise AssertionError(f"{address} port {port} was not refused")

    def udp(self, address: str, source: str | None = None) -> socket.socket:
        def step() -> socket.socket:
            opened = socket.socket(family(address), socket.SOCK_DGRAM)
            opened.settimeout(DEADLINE)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            if source is not None:
                opened.bind((source, 0))
            return opened

        return self.run(step)

    def send(self, payload: bytes, address: str, port: int, source: str | None = None) -> None:
        with self.udp(address, source) as opened:
            opened.sendto(payload, (address, port))

    def datagram_refusal(self, address: str, port: int) -> Refusal:
        with self.udp(address) as opened:
            opened.connect((address, port))
            start = time.monotonic()
            opened.send(b"quic")
            try:
                opened.recv(1)
            except OSError as error:
                return Refusal(type(error).__name__, time.monotonic() - start)
        raise AssertionError(f"{address} port {port} answered")

    def packets(self, protocol: int) -> socket.socket:
        """Returns a packet socket on eth0, for whole frames such as a hostile container would send."""

        def step() -> socket.socket:
            opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
            opened.bind(("eth0", protocol))
            opened.settimeout(DEADLINE)
            return opened

        return self.run(step)

    def interfaces(self) -> set[str]:
        return {name for _, name in self.run(socket.if_nameindex)}


@contextmanager
def open_container() -> Iterator[BareContainer]:
    def step() -> int:
        unshare_network()
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    fd = on_own_thread(step)
    try:
        yield BareContainer(fd)
    finally:
        os.close(fd)


def family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


async def accept(listener: socket.socket) -> socket.socket:
    with trio.fail_after(DEADLINE):
        await trio.lowlevel.wait_readable(listener)
    accepted, _ = listener.accept()
    accepted.settimeout(DEADLINE)
    return accepted


def destination(accepted: socket.socket) -> tuple[str, int]:
    """Returns the address and port that the container dialled, with an IPv4 address in IPv4 form."""
    return plain(accepted.getsockname()[0]), accepted.getsockname()[1]


def interface(accepted: socket.socket) -> int:
    """Returns the index of the interface on which the SYN arrived. In the control message, it stands behind the header
    and an address."""
    options = accepted.getsockopt(socket.IPPROTO_IPV6, PKTOPTIONS, 256)
    index: int = struct.unpack_from("=I", options, 32)[0]
    return index


@dataclass(frozen=True, slots=True)
class Query:
    """A datagram that the DNS socket received."""

    payload: bytes
    client: Any
    interface: int
    destination: tuple[str, int]


async def query(dns: socket.socket) -> Query:
    with trio.fail_after(DEADLINE):
        await trio.lowlevel.wait_readable(dns)
    payload, controls, _, client = dns.recvmsg(512, 512)
    found = {(level, kind): data for level, kind, data in controls}
    _, index = struct.unpack("=16sI", found[socket.IPPROTO_IPV6, socket.IPV6_PKTINFO])
    if (original := found.get((socket.IPPROTO_IPV6, 74))) is not None:
        port, address = struct.unpack_from("!2xH4x16s", original)
    else:
        port, address = struct.unpack_from("!2xH4s", found[socket.IPPROTO_IP, 20])
    return Query(payload, client, index, (plain(str(ip_address(address))), port))


def answer(dns: socket.socket, to: Query, payload: bytes) -> None:
    """Answers from the address that the query was sent to."""
    source = ip_address(to.destination[0])
    wide = source if source.version == 6 else IPv6Address(bytes(10) + b"\xff\xff" + source.packed)
    control = struct.pack("=16sI", wide.packed, 0)
    dns.sendmsg([payload], [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, control)], 0, to.client)


def plain(address: str) -> str:
    parsed = ip_address(address)
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return str(mapped or parsed)
