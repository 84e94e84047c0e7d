"""The world's network and the lifetime of its servers.

Links: host `world0` 192.0.2.2, 2001:db8:ffff::2 ↔ internet `uplink` 192.0.2.1, 2001:db8:ffff::1.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from pyinterceptor.capture.gateway.namespace import inside
from tests.world.network import new_namespace, wait_for_port
from tests.world.servers import Servers

ORIGIN_V4, ORIGIN_V6 = "203.0.113.10", "2001:db8:1::10"
OTHER_V4, OTHER_V6 = "198.51.100.20", "2001:db8:2::20"
NAMESERVER_V4, NAMESERVER_V6 = "203.0.113.53", "2001:db8:1::53"
DEAD_V6 = "2001:db8:dead::1"  # packets to it are dropped without an answer

T = TypeVar("T")

COUNTING = """
table inet world {
  counter syns {}
  counter datagrams {}
  counter pings {}
  chain arriving {
    type filter hook prerouting priority -300;
    iifname "uplink" tcp flags & (syn | ack) == syn counter name "syns"
    iifname "uplink" meta l4proto udp counter name "datagrams"
    iifname "uplink" icmp type echo-request counter name "pings"
    iifname "uplink" icmpv6 type echo-request counter name "pings"
  }
}
"""


@dataclass(frozen=True, slots=True)
class Counts:
    """Packets that arrived from the host: connection attempts, UDP datagrams, pings."""

    syns: int
    datagrams: int
    pings: int


class World:
    """Owns the namespace, the link, the host's default routes and the servers' processes."""

    def __init__(self, *, v6: bool = True) -> None:
        self._v6 = v6
        self._stack = ExitStack()

    def __enter__(self) -> World:
        with ExitStack() as stack:
            self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="world-")))
            self.directory.chmod(0o755)
            self._namespace = new_namespace()
            stack.callback(os.close, self._namespace)
            self._link()
            stack.callback(run, ["ip", "link", "del", "world0"])
            self._address()
            self.servers = stack.enter_context(Servers(self.directory, self.popen))
            for address in (ORIGIN_V4, ORIGIN_V6) if self._v6 else (ORIGIN_V4,):
                for port in self.servers.ports:
                    wait_for_port(address, port)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def namespace(self) -> int:
        """The descriptor of the internet's network namespace, to be borrowed."""
        return self._namespace

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Starts a command in the internet. It is killed when the calling thread ends."""
        entered = self._entered(["setpriv", "--pdeathsig", "KILL", *argv])
        return subprocess.Popen(entered, pass_fds=[self._namespace], **options)

    def run(self, argv: Sequence[str], stdin: str = "") -> str:
        """Runs a command in the internet. Returns its standard output."""
        return run(self._entered(argv), stdin, [self._namespace])

    def _entered(self, argv: Sequence[str]) -> list[str]:
        return ["nsenter", f"--net=/proc/self/fd/{self._namespace}", *argv]

    def inside(self, step: Callable[[], T]) -> T:
        """Runs `step` in the internet's network namespace. Sockets that it creates stay in that namespace."""
        return inside(self._namespace, step)

    def name(self, name: str, *addresses: str, ttl: int = 60) -> None:
        """Sets the DNS server's answer for a name. Without addresses, the name does not exist."""
        self.servers.name(name, addresses, ttl)

    def queries(self) -> list[tuple[str, str]]:
        """Returns the queries that the DNS server got, as (name, type), oldest first."""
        return self.servers.queries()

    def counts(self) -> Counts:
        """Returns the number of packets that have arrived so far."""
        found = json.loads(self.run(["nft", "-j", "list", "counters", "table", "inet", "world"]))["nftables"]
        counters = [one["counter"] for one in found if "counter" in one]
        return Counts(**{counter["name"]: counter["packets"] for counter in counters})

    def _link(self) -> None:
        peer = f"/proc/self/fd/{self._namespace}"
        add = ["ip", "link", "add", "world0", "type", "veth", "peer", "name", "uplink", "netns", peer]
        run(add, pass_fds=[self._namespace])

    def _address(self) -> None:
        host = [
            "address add 192.0.2.2/24 dev world0",
            "link set world0 up",
            "route add default via 192.0.2.1",
        ]
        internet = [
            "link set lo up",
            "address add 192.0.2.1/24 dev uplink",
            "address add 2001:db8:ffff::1/64 dev uplink nodad",
            "link set uplink up",
            "route add blackhole 2001:db8:dead::/48",
            *(f"address add {address}/32 dev lo" for address in (ORIGIN_V4, OTHER_V4, NAMESERVER_V4)),
            *(f"address add {address}/128 dev lo nodad" for address in (ORIGIN_V6, OTHER_V6, NAMESERVER_V6)),
        ]
        if self._v6:
            host += [
                "address add 2001:db8:ffff::2/64 dev world0 nodad",
                "route add default via 2001:db8:ffff::1 dev world0",
            ]
        self.run(["ip", "-batch", "-"], "\n".join(internet) + "\n")
        run(["ip", "-batch", "-"], "\n".join(host) + "\n")
        self.run(["nft", "-f", "-"], COUNTING)


def run(argv: Sequence[str], stdin: str = "", pass_fds: Sequence[int] = ()) -> str:
    """Runs a command. Returns its standard output. Raises AssertionError with its error message if it fails."""
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, pass_fds=pass_fds, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr.strip()}"
    return done.stdout
