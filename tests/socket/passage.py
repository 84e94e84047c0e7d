"""Flows over the loopback interface, which the relay takes for a container's: no namespaces, no kernel program.

What is dialled at 127.0.0.1 arrives at 127.0.0.2: the first is a name's synthetic address, the second its real one.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field

from pyinterceptor.capture.capture import Attachment
from pyinterceptor.policy.budget import Budget
from pyinterceptor.policy.rules import Rules
from pyinterceptor.policy.table import compile
from pyinterceptor.relay.relay import Options, Relay, open_relay

LO = socket.if_nametoindex("lo")
CONTAINER = 41  # a number that is no interface
NAME = "passage.test"
NEAR, FAR = ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv4Address("127.0.0.2")
NEAR_V6 = ipaddress.IPv6Address("::1")
PATIENCE = 30.0  # seconds until a test counts as stuck
OPEN = Rules({}, None, internet=True, local_networks=("127.0.0.0/8",))
ONE_THREAD = Options(threads=1)
BUDGET = Budget()
IPV6_RECVPKTINFO = 49  # linux/in6.h


@dataclass(frozen=True, slots=True)
class Passage:
    """client → relay → origin."""

    relay: Relay
    address: tuple[str, int]  # where clients connect to
    origin: socket.socket  # listens where they arrive
    arrivals: list[socket.socket] = field(default_factory=list)
    _sockets: ExitStack = field(default_factory=ExitStack)

    def client(self) -> socket.socket:
        """A new connection; closed at the end, if not before."""
        return self._sockets.enter_context(socket.create_connection(self.address, PATIENCE))

    def arrived(self) -> socket.socket:
        """The next connection at the origin."""
        made = self._sockets.enter_context(self.origin.accept()[0])
        made.settimeout(PATIENCE)
        self.arrivals.append(made)
        return made

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """A flow that moves bytes, by both its ends."""
        client = self.client()
        client.sendall(b"\0")
        origin = self.arrived()
        assert origin.recv(1) == b"\0"
        return client, origin

    def publish(self, rules: Rules) -> None:
        self.relay.publish_policy(CONTAINER, compile(rules, 1))

    def publish_address(self) -> None:
        """The name is resolved."""
        assert self.relay.publish_name(CONTAINER, NAME, (NEAR, NEAR_V6), [FAR], 1000)

    @contextmanager
    def crowded(self, count: int) -> Iterator[None]:
        """As much as can be moves in so many flows meanwhile."""
        with ExitStack() as stack:
            for _ in range(count):
                client, origin = self.pair()
                for job, end in ((_pour, client), (_drain, origin)):
                    thread = threading.Thread(target=job, args=(end,))
                    thread.start()
                    stack.callback(thread.join)
                    stack.callback(_shut, end)
            yield


@asynccontextmanager
async def passage(
    rules: Rules = OPEN,
    options: Options = ONE_THREAD,
    budget: Budget = BUDGET,
) -> AsyncIterator[Passage]:
    """Opens it; one thread serves all, so that what one flow costs is the others' to feel."""
    with ExitStack() as stack:
        near = stack.enter_context(listener(str(NEAR)))
        port = near.getsockname()[1]
        origin = stack.enter_context(socket.create_server((str(FAR), port), backlog=4096))
        origin.settimeout(PATIENCE)
        async with open_relay(options) as relay:
            relay.add_container(relay.listen(near), Attachment(CONTAINER, LO, NEAR, NEAR_V6), budget)
            opened = Passage(relay, (str(NEAR), port), origin)
            opened.publish(rules)
            opened.publish_address()
            with opened._sockets:
                yield opened


def listener(address: str, port: int = 0) -> socket.socket:
    """At the one address alone: the gateway's own listens at every."""
    made = socket.socket(socket.AF_INET6, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    made.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
    made.bind((f"::ffff:{address}", port))
    made.listen(4096)
    return made


def _pour(end: socket.socket) -> None:
    words = bytes(1 << 20)
    with suppress(OSError):
        while True:
            end.sendall(words)


def _drain(end: socket.socket) -> None:
    room = bytearray(1 << 20)
    with suppress(OSError):
        while end.recv_into(room):
            pass


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


def hears_a_reset(end: socket.socket) -> bool:
    """What comes next is a reset; False: the end."""
    try:
        said = end.recv(1)
    except ConnectionResetError:
        return True
    assert said == b""
    return False
