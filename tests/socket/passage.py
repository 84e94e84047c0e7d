"""Flows over the loopback interface, which stands for a container's: no namespaces, no kernel program.

A connection to 127.0.0.1 arrives at 127.0.0.2: the first is a name's synthetic address, the second its real one.
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
CONTAINER = 41  # a number that no interface has
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
    address: tuple[str, int]  # of the relay's listener
    origin: socket.socket  # listens at the real address
    arrivals: list[socket.socket] = field(default_factory=list)
    _sockets: ExitStack = field(default_factory=ExitStack)

    def client(self) -> socket.socket:
        """Returns a new connection, which is closed at the end."""
        return self._sockets.enter_context(socket.create_connection(self.address, PATIENCE))

    def arrived(self) -> socket.socket:
        """Returns the next connection at the origin."""
        made = self._sockets.enter_context(self.origin.accept()[0])
        made.settimeout(PATIENCE)
        self.arrivals.append(made)
        return made

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Returns both ends of a flow that moves bytes."""
        client = self.client()
        client.sendall(b"\0")
        origin = self.arrived()
        assert origin.recv(1) == b"\0"
        return client, origin

    def publish(self, rules: Rules) -> None:
        self.relay.publish_policy(CONTAINER, compile(rules, 1))

    def publish_address(self) -> None:
        """Publishes the name's addresses."""
        assert self.relay.publish_name(CONTAINER, NAME, (NEAR, NEAR_V6), [FAR], 1000)

    @contextmanager
    def crowded(self, count: int) -> Iterator[None]:
        """Moves as many bytes as possible in `count` flows while the block lasts."""
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
    """Opens a passage. One thread serves all flows, so that a flow delays the others by its cost."""
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
    """Returns a listener at this address alone; the gateway's listener has every address."""
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
    """Whether the connection is reset next. Returns False if it is closed, and fails if bytes come."""
    try:
        said = end.recv(1)
    except ConnectionResetError:
        return True
    assert said == b""
    return False
