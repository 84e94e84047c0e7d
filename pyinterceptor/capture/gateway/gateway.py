"""The gateway: the network namespace where every container's veth ends, and the two sockets that get the traffic.

It fails closed: traffic that the kernel program doesn't assign to a socket is refused. If this process dies, all
traffic is refused, because the namespace and the program stay until the next start or an orderly close.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from collections import deque
from collections.abc import AsyncIterator, Set
from contextlib import ExitStack, asynccontextmanager
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any

import trio

from pyinterceptor._relay import ffi, lib
from pyinterceptor.capture.capture import Attachment
from pyinterceptor.capture.gateway import debian, foreign, program, veth
from pyinterceptor.capture.gateway.files import kernel_directory
from pyinterceptor.capture.gateway.filter import DNS_RATE, Filter
from pyinterceptor.capture.gateway.namespace import inside, make_namespace, mount
from pyinterceptor.capture.gateway.netlink import links_gone, new_batch, open_netlink, open_notices, send
from pyinterceptor.capture.gateway.pins import Map, links_of, possible_cpus
from pyinterceptor.capture.gateway.sockets import open_dns, open_listener
from pyinterceptor.capture.gateway.state import clear, free_instance, hold, release, remove_leftovers, state_of
from pyinterceptor.errors import CaptureError
from pyinterceptor.paths import InstancePaths
from pyinterceptor.policy.addresses import Network, unpacked
from pyinterceptor.policy.metadata import METADATA

__all__ = ["Gateway", "free_instance", "open_gateway", "remove_leftovers"]

LINK_NOTICES = 1  # RTMGRP_LINK, linux/rtnetlink.h
FIRST_IFINDEX = 1000  # above the indexes of the interfaces that the kernel creates in the namespace
COMPILE_DEADLINE = 60.0  # seconds; compiling takes 0.3

# A new namespace may inherit any value, so every setting that we rely on is written. A new veth gets `default`.
SYSCTLS = {
    "net/core/somaxconn": "4096",
    "net/ipv4/ip_forward": "0",
    "net/ipv4/icmp_echo_ignore_all": "1",  # otherwise the gateway itself answers every ping
    "net/ipv4/icmp_ratemask": "0",  # otherwise only the first six refused datagrams get an ICMP error at once
    "net/ipv4/ping_group_range": "1 0",
    "net/ipv6/conf/all/forwarding": "0",
    "net/ipv6/icmp/echo_ignore_all": "1",
    "net/ipv6/icmp/echo_ignore_anycast": "1",
    "net/ipv6/icmp/echo_ignore_multicast": "1",
    "net/ipv6/icmp/ratemask": "",
} | {
    f"net/{family}/conf/{where}/{name}": value
    for where in ("all", "default")
    for family, name, value in (
        ("ipv4", "rp_filter", "0"),
        ("ipv4", "accept_local", "0"),
        ("ipv4", "src_valid_mark", "0"),
        ("ipv4", "route_localnet", "0"),
        ("ipv4", "proxy_arp", "0"),
        ("ipv4", "accept_redirects", "0"),
        ("ipv4", "send_redirects", "0"),
        ("ipv4", "accept_source_route", "0"),
        ("ipv6", "disable_ipv6", "0"),
        ("ipv6", "accept_ra", "0"),  # otherwise a router advertisement of a container changes the gateway's routes
        ("ipv6", "autoconf", "0"),
        ("ipv6", "accept_redirects", "0"),
        ("ipv6", "accept_source_route", "-1"),
        ("ipv6", "seg6_enabled", "0"),
        ("ipv6", "rpl_seg_enabled", "0"),
        ("ipv6", "accept_dad", "0"),
        ("ipv6", "addr_gen_mode", "1"),  # none is generated: fe80::1 is the only link-local address
    )
}

# Destinations that are refused to all containers. REFUSED_BUT_DNS and the containers' own addresses may still be asked
# for DNS, which we answer on any address.
REFUSED = (
    *("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32"),
    *("::/96", "::ffff:0:0/96", "ff00::/8", "fe80::/10"),
)
REFUSED_BUT_DNS = ("169.254.0.0/16",)


class Gateway:
    """The Capture made by `open_gateway`."""

    def __init__(
        self, parts: Parts, maps: dict[str, Map], v6: bool, container_v4: IPv4Network, container_v6: IPv6Network
    ) -> None:
        self.listener = parts.listener
        self.dns = parts.dns
        self._netlink = parts.netlink
        self._filter = parts.filter
        self._maps = maps
        self._flags = lib.CONTAINER_IPV6 if v6 else 0
        self._v4 = container_v4
        self._v6 = container_v6
        self._next = 1  # address 0 is the network's own
        self._free: deque[int] = deque()
        self._ifindexes = FIRST_IFINDEX
        self._reserved: dict[int, Attachment] = {}
        self._attached: dict[int, Attachment] = {}
        self._gone: dict[int, trio.Event] = {}  # by interface
        self._served: dict[int, frozenset[Network]] = {}  # IPv6, by interface
        self._with_metadata: set[int] = set()  # interfaces of containers whose rules name a metadata address
        self._links = parts.links
        self._own = parts.own
        self._one_at_a_time = trio.Lock()  # the netlink socket is shared, and its answers must not mix

    def reserve(self, container: int) -> Attachment:
        """Returns an attachment with an interface index that was never used before, and addresses of its own.

        Raises CaptureError if all addresses are taken.
        """
        number = self._number()
        attachment = Attachment(container, self._ifindexes, self._v4[number], self._v6[number])
        self._ifindexes += 1
        self._reserved[attachment.interface] = attachment
        return attachment

    async def attach(self, attachment: Attachment, netns_fd: int) -> None:
        """Ties the container's namespace (borrowed) to the gateway.

        Raises CaptureError if that fails, or if the namespace is the host's or the gateway's; nothing is left behind
        then.
        """
        self._check_foreign(netns_fd)
        async with self._one_at_a_time:
            self._attached[attachment.interface] = attachment
            self._gone[attachment.interface] = trio.Event()
            self._write_entry(attachment)
            try:
                await trio.to_thread.run_sync(veth.attach, self._netlink, attachment, netns_fd)
            except BaseException:
                self._forget(attachment)
                raise

    async def check_namespace(self, netns_fd: int) -> None:
        """Raises CaptureError if an interface but lo is up in the namespace (borrowed), or if it has a route."""
        self._check_foreign(netns_fd)
        await trio.to_thread.run_sync(foreign.check_empty, netns_fd)

    async def empty_namespace(self, netns_fd: int) -> None:
        """Sets every interface but lo down in the namespace (borrowed), and deletes its routes.

        Raises CaptureError if that fails, or if the namespace is the host's or the gateway's.
        """
        self._check_foreign(netns_fd)
        await trio.to_thread.run_sync(foreign.empty, netns_fd)

    async def wait_until_gone(self, attachment: Attachment) -> None:
        """Returns once the container's namespace no longer exists, or the attachment is detached."""
        gone = self._gone.get(attachment.interface)
        if gone is not None:
            await gone.wait()

    async def follow(self) -> None:
        """Detects ended namespaces, until cancelled: a namespace's end deletes its veth, and thus the gateway's end."""
        while True:
            await trio.lowlevel.wait_readable(self._links)
            for interface in links_gone(self._links, self._gone):
                self._gone[interface].set()

    async def detach(self, attachment: Attachment) -> None:
        """Cuts the container off and frees its attachment. A free attachment is no error."""
        if self._reserved.pop(attachment.interface, None) is None:
            return
        self._serve_ipv6(attachment, frozenset())
        del self._served[attachment.interface]
        self._with_metadata.discard(attachment.interface)
        if attachment.interface in self._attached:
            self._forget(attachment)
            async with self._one_at_a_time:
                await trio.to_thread.run_sync(veth.detach, self._netlink, attachment)
        self._free.append(int(attachment.v4) - int(self._v4.network_address))

    def set_ipv6(self, v6: bool) -> None:
        """Sets whether the host has an IPv6 route. Without one, IPv6 connections are refused at once."""
        self._flags = lib.CONTAINER_IPV6 if v6 else 0
        for attachment in self._attached.values():
            self._write_entry(attachment)

    def set_reach(self, attachment: Attachment, *, ipv6: Set[Network], metadata: bool) -> None:
        """Sets the destinations that this container reaches and others don't: see `Capture`.

        Raises CaptureError if the kernel's map is full.
        """
        self._serve_ipv6(attachment, ipv6)
        if metadata != (attachment.interface in self._with_metadata):
            self._with_metadata ^= {attachment.interface}
            if attachment.interface in self._attached:
                self._write_entry(attachment)

    def _serve_ipv6(self, attachment: Attachment, networks: Set[Network]) -> None:
        def key(network: Network) -> bytes:
            prefix = lib.SERVED6_PREFIX + network.prefix
            return struct.pack("=II", prefix, attachment.interface) + network.address

        served = self._served.get(attachment.interface, frozenset())
        for network in served - networks:
            self._maps["served6"].delete(key(network))
        self._served[attachment.interface] = frozenset(networks)
        for network in networks - served:
            self._maps["served6"].update(key(network), struct.pack("=I", 1))

    def counters(self) -> dict[str, int]:
        """Returns the counters of the program (new connections and datagrams) and of the rules (dropped packets)."""
        counts = self._filter.counters()
        size = 8 * possible_cpus()
        for name in dir(lib):
            if name.startswith("COUNTER_"):
                values = self._maps["counters"].lookup(struct.pack("=I", getattr(lib, name)), size) or b""
                counts[name.removeprefix("COUNTER_").lower()] = sum(v for (v,) in struct.iter_unpack("=Q", values))
        return counts

    def _number(self) -> int:
        if self._next < self._v4.num_addresses - 1:
            self._next += 1
            return self._next - 1
        if self._free:
            return self._free.popleft()
        raise CaptureError(f"reserve an attachment: all addresses of {self._v4} are taken")

    def _write_entry(self, attachment: Attachment) -> None:
        flags = self._flags | (lib.CONTAINER_METADATA if attachment.interface in self._with_metadata else 0)
        entry = ffi.new("struct container_entry *", {"flags": flags, "container": attachment.container})
        self._maps["containers"].update(struct.pack("=I", attachment.interface), bytes(ffi.buffer(entry)))

    def _check_foreign(self, netns_fd: int) -> None:
        if (whose := self._own.get(foreign.identity(netns_fd))) is not None:
            raise CaptureError(f"attach a namespace: it is {whose} own, not a container's")

    def _forget(self, attachment: Attachment) -> None:
        if (gone := self._gone.pop(attachment.interface, None)) is not None:
            gone.set()
        self._attached.pop(attachment.interface, None)
        self._maps["containers"].delete(struct.pack("=I", attachment.interface))


class Parts:
    """The objects that are created inside the namespace and used from outside."""

    def __init__(self, stack: ExitStack, namespace: int, rules: Path, dns_rate: int) -> None:
        self.own = {_identity("/proc/1/ns/net"): "the host's", _identity("/proc/self/ns/net"): "the host's"}
        self.own[foreign.identity(namespace)] = "the gateway's"
        for name, value in SYSCTLS.items():
            _write_sysctl(name, value)
        self.netlink = stack.enter_context(open_netlink())
        self.links = stack.enter_context(open_notices(LINK_NOTICES))
        _make_all_local(self.netlink)
        self.filter = Filter(rules, dns_rate)
        stack.callback(self.filter.close)
        self.listener = stack.enter_context(open_listener())
        self.dns = stack.enter_context(open_dns())


@asynccontextmanager
async def open_gateway(
    instance: str,
    *,
    v6: bool,
    container_v4: str = "100.96.0.0/16",
    container_v6: str = "fd70:7969:6e74::/64",
    dns_rate: int = DNS_RATE,
) -> AsyncIterator[Gateway]:
    """Opens the gateway of the instance with this name, and removes it when the block ends.

    First removes leftovers of a dead instance with the same name. `v6`: whether the host has an IPv6 route. `dns_rate`:
    DNS datagrams per second of one container, above which the kernel drops and counts them, after a burst of a fifth.

    Raises CaptureError, whose message has the step and the remedy.
    """
    state = state_of(instance)
    networks = IPv4Network(container_v4), IPv6Network(container_v6)
    with ExitStack() as stack:
        try:
            yield await trio.to_thread.run_sync(_open, stack, state, v6, dns_rate, *networks)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(stack.close)


def _open(
    stack: ExitStack,
    state: InstancePaths,
    v6: bool,
    dns_rate: int,
    container_v4: IPv4Network,
    container_v6: IPv6Network,
) -> Gateway:
    try:
        stack.callback(release, state, hold(state))
        clear(state)
        stack.callback(clear, state)
        namespace = make_namespace(state.namespace)
        stack.callback(os.close, namespace)
        rules = kernel_directory() / "gateway.nft.json"
        parts = inside(namespace, lambda: Parts(stack, namespace, rules, dns_rate))
        state.pins.mkdir(mode=0o700)
        mount("bpf", state.pins, "bpf")
        _load_program(namespace, state.pins)
        _verify(namespace)
        maps = _open_maps(stack, state.pins)
        _fill(maps, parts, container_v4, container_v6)
    except OSError as error:
        raise CaptureError(f"open the gateway: {error}") from error
    return Gateway(parts, maps, v6, container_v4, container_v6)


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _write_sysctl(name: str, value: str) -> None:
    try:
        Path("/proc/sys", name).write_text(value + "\n")
    except OSError as error:
        raise CaptureError(f"set {name.replace('/', '.')} in the gateway: {error.strerror}") from error


def _make_all_local(netlink: socket.socket) -> None:
    """AnyIP: makes every arriving packet's destination local. Answers take the host routes to the containers."""
    host = 254  # RT_SCOPE_HOST
    with new_batch() as batch:
        batch.link("set", index=1, state="up")
        for family, everything, scope in ((socket.AF_INET, "0.0.0.0/0", host), (socket.AF_INET6, "::/0", 0)):
            batch.rule("add", family=family, priority=1, iifname="lo", table=254)
            batch.rule("add", family=family, priority=200, table=255)
            batch.rule("del", family=family, priority=0, table=255)
            batch.route("add", dst=everything, oif=1, table=255, type="local", scope=scope)
        send(netlink, batch, "make all addresses local in the gateway")


def _load_program(namespace: int, pins: Path) -> None:
    """Runs program.py in the first interpreter that has BCC.

    The child gets descriptors instead of paths. If this process is killed, the child may go on, but it can't change a
    later instance with the same name.
    """
    directory = os.open(pins, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _run_program(namespace, directory)
    finally:
        os.close(directory)


def _run_program(namespace: int, pins: int) -> None:
    places = [str(kernel_directory()), f"/proc/self/fd/{namespace}", f"/proc/self/fd/{pins}"]
    for interpreter in debian.INTERPRETERS:
        try:
            child = subprocess.run(
                [interpreter, "-I", program.__file__, *places],
                pass_fds=(namespace, pins),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=COMPILE_DEADLINE,
                start_new_session=True,  # Ctrl-C must reach this process only
            )
        except FileNotFoundError:
            continue
        except subprocess.TimeoutExpired as error:
            raise CaptureError(f"load the kernel program: timed out after {COMPILE_DEADLINE:.0f} s") from error
        if child.returncode == 0:
            return
        if child.returncode != program.NO_BCC:
            raise CaptureError(f"load the kernel program: {child.stderr.strip() or child.returncode}")
    raise CaptureError("load the kernel program: BCC is missing; run: apt install python3-bpfcc")


def _verify(namespace: int) -> None:
    if (links := links_of(os.fstat(namespace).st_ino)) != 1:
        raise CaptureError(f"load the kernel program: {links} programs are attached to the gateway instead of one")


def _open_maps(stack: ExitStack, pins: Path) -> dict[str, Map]:
    maps = {}
    for name in program.MAPS:
        maps[name] = Map(pins / name)
        stack.callback(maps[name].close)
    return maps


def _fill(maps: dict[str, Map], parts: Parts, container_v4: IPv4Network, container_v6: IPv6Network) -> None:
    for network in REFUSED:
        _refuse(maps, ip_network(network), lib.REFUSE_ALL)
    for own in (*map(ip_network, REFUSED_BUT_DNS), container_v4, container_v6):
        _refuse(maps, own, lib.REFUSE_ALL_BUT_DNS)
    for address in METADATA:
        _refuse(maps, ip_network(unpacked(address.address)), lib.REFUSE_METADATA)
    for slot, held in ((lib.LISTENER_TCP, parts.listener), (lib.LISTENER_DNS, parts.dns)):
        maps["listeners"].update(struct.pack("=I", slot), struct.pack("=Q", held.fileno()))


def _refuse(maps: dict[str, Map], network: Any, rule: int) -> None:
    key = struct.pack("=I", network.prefixlen) + network.network_address.packed
    maps[f"refused{network.version}"].update(key, struct.pack("=I", rule))
