"""A container that sends raw packets reaches no more destinations, and can neither imitate nor affect another one.

Each refusal has a control that gets through: the same packet without the forgery, or without the guard under test.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio

from pyinterceptor.capture.capture import Attachment
from pyinterceptor.capture.gateway import veth
from pyinterceptor.capture.gateway.filter import DNS_RATE
from pyinterceptor.capture.gateway.gateway import Gateway, open_gateway
from pyinterceptor.capture.gateway.namespace import inside
from pyinterceptor.capture.gateway.state import state_of
from tests.kernel import frames
from tests.kernel.container import (
    AT_ONCE,
    BareContainer,
    accept,
    family,
    in_trio,
    interface,
    open_container,
    plain,
    query,
)
from tests.kernel.frames import echo, packet, question, syn, tcp, udp, version

V4, V6 = "198.51.100.7", "2001:db8:7::7"
THE_INTERNET = {4: V4, 6: V6}
ALL_FRAMES = 0x0003  # ETH_P_ALL
# The packets that a system sends by itself are all multicast. This rule drops them, so that only ours are counted.
QUIET = "add table inet quiet; add chain inet quiet out { type filter hook output priority 0; }; \
add rule inet quiet out ip6 daddr ff00::/8 drop"
MARK = b"that was all"
TAKEN = {"assigned_tcp": 1, "assigned_dns": 1}  # one valid connection and one valid DNS query


@dataclass(frozen=True, slots=True)
class Member:
    """A container with a packet socket on its interface."""

    container: BareContainer
    attachment: Attachment
    raw: socket.socket

    def own(self, address: str) -> str:
        """Returns this container's address of the same family as `address`."""
        return str(self.attachment.v4 if version(address) == 4 else self.attachment.v6)

    def send(self, *whole: bytes) -> None:
        """Sends frames, all on one CPU, so that they arrive in this order."""
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(allowed)})
        try:
            for frame in whole:
                self.raw.send(frame)
        finally:
            os.sched_setaffinity(0, allowed)

    def frame(self, payload: bytes, kind: int = 0, *, to: str = "", by: str = "", tags: bytes = b"") -> bytes:
        kind = kind or frames.ETHERTYPES[payload[0] >> 4]
        return frames.ethernet(to or veth.GATEWAY_MAC, by or veth.mac(self.attachment), kind, payload, tags)

    def received(self) -> list[bytes]:
        """Returns the frames received so far, without the gateway's multicast reports (with a hop-by-hop header)."""
        found = []
        self.raw.setblocking(False)
        while True:
            try:
                frame, (_, _, direction, *_) = self.raw.recvfrom(2048)
            except BlockingIOError:
                return found
            if direction != socket.PACKET_OUTGOING and frame[12:21:8] != b"\x86\0":
                found.append(frame)


@dataclass(frozen=True, slots=True)
class Scene:
    """A gateway with a hostile container and a second one."""

    gateway: Gateway
    hostile: Member
    other: Member
    instance: str

    async def outcome(self, *payloads: bytes) -> dict[str, int]:
        """Sends these packets. Returns the counters that they increased."""
        return await self.outcome_of_frames(*map(self.hostile.frame, payloads))

    async def outcome_of_frames(self, *sent: bytes) -> dict[str, int]:
        own = str(self.hostile.attachment.v4)
        mark = packet(own, V4, frames.UDP, udp(own, V4, 53, MARK))
        before = self.gateway.counters()
        self.hostile.send(*sent, self.hostile.frame(mark))
        while (await query(self.gateway.dns)).payload != MARK:
            pass
        after = self.gateway.counters()
        after["assigned_dns"] -= 1
        return {name: after[name] - before[name] for name in after if after[name] != before[name]}

    def command(self, *argv: str) -> str:
        """Runs a command in the gateway's namespace. Returns its output."""
        entered = ["nsenter", f"--net={state_of(self.instance).namespace}", *argv]
        return subprocess.run(entered, capture_output=True, text=True, check=True).stdout

    def from_gateway(self, step: Callable[[], None]) -> None:
        """Runs `step` in the gateway's namespace."""
        with open(state_of(self.instance).namespace) as namespace:
            inside(namespace.fileno(), step)

    def statistic(self, name: str) -> int:
        """Returns a counter of the kernel's protocol statistics, by its name in nstat(8)."""
        return int(self.command("nstat", "-asz", name).split()[-2])

    def lift_rules(self) -> None:
        """Removes our rules, and the kernel's own check of IPv4 source addresses."""
        self.command("sysctl", "-qw", "net.ipv4.conf.all.accept_local=1")
        for table in ("inet", "arp"):
            self.command("nft", "flush", "chain", table, "gateway", "arriving")
            self.command("nft", "chain", table, "gateway", "arriving", "{ policy accept; }")

    def network(self) -> str:
        """Returns the gateway's addresses, routes, rules and neighbours as text."""
        commands = ("address", "route show table all", "-6 route show table all", "rule", "-6 rule", "neighbour")
        return "\n".join(self.command("ip", *command.split()) for command in commands)


@asynccontextmanager
async def scene(instance: str, dns_rate: int = DNS_RATE) -> AsyncIterator[Scene]:
    async with open_gateway(instance, v6=True, dns_rate=dns_rate) as gateway:
        with open_container() as one, open_container() as two:
            members = []
            for container in (one, two):
                container.command("nft", QUIET)
                attachment = gateway.reserve(1)
                await gateway.attach(attachment, container.fd)
                members.append(Member(container, attachment, container.packets(ALL_FRAMES)))
            with members[0].raw, members[1].raw:
                yield Scene(gateway, *members, instance)


# --- sources ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "the other container's v4",
        "the other container's v6",
        "203.0.113.10",
        "2001:db8:1::10",
        "100.96.200.1",  # no container's
        "fd70:7969:6e74::c801",
        "169.254.1.1",  # the gateway's
        "64:ff9b::cb00:710a",
        "2002:cb00:710a::1",
        "::",
    ],
)
@in_trio
async def test_a_source_that_is_not_the_containers_is_dropped(instance: str, source: str) -> None:
    async with scene(instance) as at:
        other = at.other.attachment
        others = {"the other container's v4": other.v4, "the other container's v6": other.v6}
        source = str(others.get(source, source))
        target = THE_INTERNET[version(source)]
        own = at.hostile.own(target)
        assert await at.outcome(syn(own, target), question(own, target)) == TAKEN
        at.other.received()
        assert await at.outcome(syn(source, target), question(source, target)) == {"spoofed": 2}
        assert at.other.received() == []
        at.lift_rules()
        reached = await at.outcome(syn(source, target), question(source, target))
        assert reached["assigned_dns"] == reached["assigned_tcp"] == 1


@in_trio
async def test_what_is_dropped_would_have_been_answered_to_the_other_container(instance: str) -> None:
    async with scene(instance) as at:
        for target in (V4, V6):
            forged = syn(at.other.own(target), target)
            at.other.received()
            assert await at.outcome(forged) == {"spoofed": 1}
            assert at.other.received() == []
        at.lift_rules()
        for target in (V4, V6):
            assert await at.outcome(syn(at.other.own(target), target)) == {"assigned_tcp": 1}
            assert at.other.received()


@pytest.mark.parametrize(
    "source", ["127.0.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.1", "::1", "ff02::1", "::ffff:203.0.113.10"]
)
@in_trio
async def test_a_source_that_can_be_nobodys_is_dropped(instance: str, source: str) -> None:
    """The kernel drops some of these before our rules see them, and also without our rules."""
    async with scene(instance) as at:
        target = THE_INTERNET[version(source)]
        own = at.hostile.own(target)
        outcome = await at.outcome(syn(source, target), question(source, target))
        assert outcome in ({"spoofed": 2}, {})
        assert await at.outcome(syn(own, target), question(own, target)) == TAKEN


@pytest.mark.parametrize("hops", [255, 64])
@in_trio
async def test_a_link_local_source_is_dropped(instance: str, hops: int) -> None:
    async with scene(instance) as at:
        source = "fe80::71:1"
        own = str(at.hostile.attachment.v6)
        assert await at.outcome(syn(own, V6, hops=hops), question(own, V6, hops=hops)) == TAKEN
        forged = (syn(source, V6, hops=hops), question(source, V6, hops=hops))
        assert await at.outcome(*forged) == {"link_local": 2}
        at.lift_rules()
        assert await at.outcome(*forged) == TAKEN


@in_trio
async def test_an_interface_that_nobody_registered_is_refused(instance: str) -> None:
    async with open_gateway(instance, v6=True) as gateway:
        with open_container() as container:
            attachment = gateway.reserve(1)
            veth.attach(gateway._netlink, attachment, container.fd)
            for address in (V4, V6):
                refusal = container.refusal(address, 80)
                assert (refusal.error, refusal.seconds < AT_ONCE) == ("ConnectionRefusedError", True)
            assert gateway.counters()["unknown_interface"] == 2
            veth.detach(gateway._netlink, attachment)
            await gateway.attach(attachment, container.fd)
            with container.connect(V4, 80), await accept(gateway.listener) as accepted:
                assert interface(accepted) == attachment.interface


# --- destinations -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [V4, V6])
@in_trio
async def test_another_containers_services_are_out_of_reach(instance: str, target: str) -> None:
    async with scene(instance) as at:
        theirs = at.other.own(target)
        with (
            at.other.container.run(lambda: socket.create_server((theirs, 8080), family=family(theirs))) as server,
            at.other.container.run(lambda: bound_udp(theirs, 8080)) as datagrams,
            at.other.container.run(lambda: bound_udp(theirs, 53)) as names,
        ):
            for listening in (server, datagrams, names):
                listening.settimeout(5)
            # The control: a route exists, and the gateway itself can use it.
            at.from_gateway(lambda: reach(theirs))
            server.accept()[0].close()
            assert datagrams.recv(64) == names.recv(64) == b"hello"
            at.other.received()

            own = at.hostile.own(theirs)
            tried = syn(own, theirs, 8080), question(own, theirs, 8080)
            assert await at.outcome(*tried) == {"refused_destination": 1, "refused_protocol": 1}
            # We answer port 53 on any address.
            assert await at.outcome(syn(own, theirs, 53), question(own, theirs)) == TAKEN
            assert at.other.received() == []


def reach(address: str) -> None:
    """Connects and sends to `address`, from a source address to which both sides have a route."""
    for kind, port in ((socket.SOCK_STREAM, 8080), (socket.SOCK_DGRAM, 8080), (socket.SOCK_DGRAM, 53)):
        with socket.socket(family(address), kind) as opened:
            opened.settimeout(5)
            opened.setsockopt(socket.IPPROTO_IP, 15, 1)  # IP_FREEBIND; covers both families
            opened.bind((THE_INTERNET[version(address)], 0))
            opened.connect((address, port))
            opened.send(b"hello")


def bound_udp(address: str, port: int) -> socket.socket:
    opened = socket.socket(family(address), socket.SOCK_DGRAM)
    opened.bind((address, port))
    return opened


@in_trio
async def test_addresses_that_are_not_on_the_wire_are_refused_there_too(instance: str) -> None:
    """A normal network stack never sends to these, but a packet socket can. The kernel drops some before our rules."""
    v4 = ("127.0.0.1", "127.1.2.3", "0.0.0.0", "0.1.2.3")
    v6 = ("::1", "::", "::127.0.0.1", "::ffff:198.51.100.7", "fe80::1", "fe80::2")
    async with scene(instance) as at:
        for target in (*v4, *v6):
            own, internet = at.hostile.own(target), THE_INTERNET[version(target)]
            outcome = await at.outcome(syn(own, target), question(own, target))
            assert set(outcome) <= {"refused_destination"}, target
            assert await at.outcome(syn(own, internet), question(own, internet)) == TAKEN


@in_trio
async def test_broadcasts_and_multicasts_do_not_reach_dns(instance: str) -> None:
    v4 = ("255.255.255.255", "224.0.0.1", "224.0.0.251", "239.1.2.3")
    async with scene(instance) as at:
        for target in (*v4, "ff02::1", "ff02::fb", "ff05::2", "ff0e::1234"):
            own, internet = at.hostile.own(target), THE_INTERNET[version(target)]
            assert await at.outcome(question(own, internet)) == {"assigned_dns": 1}
            assert await at.outcome(question(own, target), syn(own, target)) == {"not_unicast": 2}, target


@pytest.mark.parametrize("target", ["255.255.255.255", "ff02::1"])
@in_trio
async def test_without_the_rules_a_broadcast_would_reach_dns_past_the_program(instance: str, target: str) -> None:
    async with scene(instance) as at:
        payload = question(at.hostile.own(target), target)
        at.lift_rules()
        before = at.gateway.counters()
        at.hostile.send(at.hostile.frame(payload))
        assert (await query(at.gateway.dns)).payload == b"question"
        assert at.gateway.counters() == before


@pytest.mark.parametrize("target", [V4, V6])
@in_trio
async def test_quic_and_other_udp_is_refused_at_once(instance: str, target: str) -> None:
    async with scene(instance) as at:
        own = at.hostile.own(target)
        for port in (1, 443, 5353, 65535):
            assert await at.outcome(question(own, target, port)) == {"refused_protocol": 1}
            refusal = at.hostile.container.datagram_refusal(target, port)
            assert (refusal.error, refusal.seconds < AT_ONCE) == ("ConnectionRefusedError", True)
            assert await at.outcome(question(own, target, 53)) == {"assigned_dns": 1}


# --- other protocols --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [V4, V6, "169.254.1.1", "fe80::1", "the other container's"])
@in_trio
async def test_nothing_answers_a_ping(instance: str, target: str) -> None:
    async with scene(instance) as at:
        targets = [target] if target[0] != "t" else [str(at.other.attachment.v4), str(at.other.attachment.v6)]
        pings = [echo(at.hostile.own(one), one) for one in targets]
        for member in (at.hostile, at.other):
            member.received()
        assert await at.outcome(*pings) == {"other_protocols": len(pings)}
        assert at.hostile.received() == at.other.received() == []
        at.lift_rules()
        at.command("sysctl", "-qw", "net.ipv4.icmp_echo_ignore_all=0", "net.ipv6.icmp.echo_ignore_all=0")
        await at.outcome(*pings)
        assert len(at.hostile.received()) == len(pings)


@pytest.mark.parametrize("target", [V4, V6])
@in_trio
async def test_only_tcp_and_udp_get_as_far_as_a_decision(instance: str, target: str) -> None:
    """Above all, tunnels are dropped: IP in IP (4), 6in4 (41), GRE (47), ESP (50), AH (51) and L2TP (115). SCTP (132)
    and UDP-Lite (136) are dropped as well."""
    async with scene(instance) as at:
        own, theirs = at.hostile.own(target), at.other.own(target)
        hostile, other = at.hostile.attachment, at.other.attachment
        inner = {4: syn(str(hostile.v4), str(other.v4)), 41: syn(str(hostile.v6), V6)}
        for protocol in (2, 4, 33, 41, 47, 50, 51, 115, 132, 136, 255):
            for place in (target, theirs):
                payload = inner.get(protocol, tcp(own, place, 80))
                assert await at.outcome(packet(own, place, protocol, payload)) == {"other_protocols": 1}, protocol
        assert await at.outcome(packet(own, target, frames.TCP, tcp(own, target, 80))) == {"assigned_tcp": 1}
        assert at.other.received() == []


@in_trio
async def test_frames_that_are_not_ip_are_nobodys(instance: str) -> None:
    """The frames are MPLS, PPPoE, MACsec, LLC, LLDP, and one of an unassigned type."""
    async with scene(instance) as at:
        payload = syn(str(at.hostile.attachment.v4), V4)
        for kind in (0x8847, 0x8863, 0x8864, 0x88E5, 0x0004, 0x88CC, 0x9999):
            assert await at.outcome_of_frames(at.hostile.frame(payload, kind)) == {}
        assert await at.outcome_of_frames(at.hostile.frame(payload)) == {"assigned_tcp": 1}


@pytest.mark.parametrize("option", ["MP_CAPABLE", "MP_JOIN"])
@in_trio
async def test_a_multipath_connection_is_an_ordinary_one(instance: str, option: str) -> None:
    """MPTCP could add paths that no policy has decided on, so no answer offers it."""
    options = {
        "MP_CAPABLE": struct.pack("!BBBB", 30, 4, 0x01, 0x01),
        "MP_JOIN": struct.pack("!BBBBII", 30, 12, 0x10, 1, 0x1234, 0x5678),
    }
    async with scene(instance) as at:
        for target in (V4, V6):
            own = at.hostile.own(target)
            at.hostile.received()
            payload = packet(own, target, frames.TCP, tcp(own, target, 80, options=options[option]))
            assert await at.outcome(payload) == {"assigned_tcp": 1}
            answers = at.hostile.received()
            assert answers
            assert not any(has_option(answer, 30) for answer in answers)


@in_trio
async def test_an_mptcp_socket_gets_a_tcp_connection(instance: str) -> None:
    async with scene(instance) as at:

        def connect() -> socket.socket:
            opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)  # IPPROTO_MPTCP
            opened.settimeout(5)
            opened.connect((V4, 80))
            return opened

        with at.hostile.container.run(connect) as client, await accept(at.gateway.listener) as accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL) == socket.IPPROTO_TCP
            client.sendall(b"plain")
            assert accepted.recv(5) == b"plain"


def has_option(frame: bytes, kind: int) -> bool:
    """Whether the frame is a TCP segment with an option of this kind."""
    start = 14 + (40 if frame[14] >> 4 == 6 else (frame[14] & 15) * 4)
    at, end = start + 20, start + (frame[start + 12] >> 4) * 4
    assert len(frame) >= end > start
    while at < end and frame[at] != 0:
        if frame[at] == kind:
            return True
        at += 1 if frame[at] == 1 else frame[at + 1]
    return False


# --- unusual packets --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["loose source route", "strict source route"])
@in_trio
async def test_a_source_route_leads_nowhere(instance: str, option: str) -> None:
    async with scene(instance) as at:
        own, theirs = str(at.hostile.attachment.v4), at.other.attachment.v4.packed
        kind = 131 if option.startswith("loose") else 137
        route = struct.pack("!BBB", kind, 7, 4) + theirs + b"\0"
        nothing = b"\1" * 8
        at.other.received()
        assert await at.outcome(syn(own, V4, options=route), question(own, V4, options=route)) == {}
        assert at.other.received() == []
        assert await at.outcome(syn(own, V4, options=nothing), question(own, V4, options=nothing)) == TAKEN


@in_trio
async def test_an_ipv6_routing_header_leads_nowhere(instance: str) -> None:
    """The header types are 0, 2 (RFC 6275), 3 (RPL) and 4 (segment routing)."""
    async with scene(instance) as at:
        own, theirs = str(at.hostile.attachment.v6), str(at.other.attachment.v6)

        def routed(kind: int, segments_left: int, protocol: int, payload: bytes) -> bytes:
            header = struct.pack("!BBBBI", protocol, 2, kind, segments_left, 0) + frames.packed(theirs)
            return packet(own, V6, frames.ROUTING, header + payload)

        at.other.received()
        for kind in (0, 2, 3, 4):
            for payload in ((frames.TCP, tcp(own, theirs, 80)), (frames.UDP, udp(own, theirs, 53))):
                assert await at.outcome(routed(kind, 1, *payload)) == {}, kind
        assert at.other.received() == []
        # The control: with no segments left, it is an ordinary packet. The newer types are dropped even then.
        for kind, expected in ((0, {"assigned_tcp": 1}), (2, {"assigned_tcp": 1}), (3, {}), (4, {})):
            assert await at.outcome(routed(kind, 0, frames.TCP, tcp(own, V6, 80))) == expected


@pytest.mark.parametrize("header", [frames.HOP_BY_HOP, frames.DESTINATION])
@in_trio
async def test_extension_headers_hide_neither_source_nor_protocol(instance: str, header: int) -> None:
    async with scene(instance) as at:
        own, theirs = str(at.hostile.attachment.v6), str(at.other.attachment.v6)

        def wrapped(source: str, protocol: int, payload: bytes) -> bytes:
            padding = struct.pack("!BBBBI", protocol, 0, 1, 4, 0)  # PadN
            return packet(source, V6, header, padding + payload)

        honest = (frames.TCP, tcp(own, V6, 80)), (frames.UDP, udp(own, V6, 53))
        assert await at.outcome(*(wrapped(own, *one) for one in honest)) == TAKEN
        forged = (frames.TCP, tcp(theirs, V6, 80)), (frames.UDP, udp(theirs, V6, 53))
        assert await at.outcome(*(wrapped(theirs, *one) for one in forged)) == {"spoofed": 2}
        ping = frames.icmp(own, V6, 128, 0, bytes(4))
        assert await at.outcome(wrapped(own, frames.ICMPV6, ping)) == {"other_protocols": 1}
        assert await at.outcome(wrapped(own, frames.UDP, udp(own, V6, 443))) == {"refused_protocol": 1}


@in_trio
async def test_a_home_address_option_is_not_believed(instance: str) -> None:
    async with scene(instance) as at:
        own, theirs = str(at.hostile.attachment.v6), str(at.other.attachment.v6)

        def homed(home: str) -> bytes:
            option = struct.pack("!BBBBBBBB", frames.UDP, 2, 1, 2, 0, 0, 201, 16) + frames.packed(home)
            return packet(own, V6, frames.DESTINATION, option + udp(home, V6, 53))

        at.other.received()
        assert "assigned_dns" not in await at.outcome(homed(theirs))
        assert at.other.received() == []
        assert await at.outcome(question(own, V6)) == {"assigned_dns": 1}


@pytest.mark.parametrize("target", [V4, V6])
@in_trio
async def test_fragments_hide_neither_source_nor_port(instance: str, target: str) -> None:
    async with scene(instance) as at:
        own, theirs = at.hostile.own(target), at.other.own(target)
        assert await at.outcome(*fragments(own, target, 53)) == {"assigned_dns": 1}
        assert await at.outcome(*fragments(own, target, 443)) == {"refused_protocol": 1}
        assert await at.outcome(*fragments(theirs, target, 53)) == {"spoofed": 2}


def fragments(source: str, target: str, port: int) -> list[bytes]:
    """Returns a datagram in two fragments. The first has only the UDP header."""
    whole = udp(source, target, port)
    first, second = whole[:8], whole[8:]
    if version(target) == 4:
        pieces = (first, 0x2000), (second, 1)
        return [packet(source, target, frames.UDP, part, fragment=field) for part, field in pieces]
    headers = (struct.pack("!BBHI", frames.UDP, 0, field, port) for field in (1, 8))
    return [packet(source, target, frames.FRAGMENT, next(headers) + part) for part in (first, second)]


@in_trio
async def test_tagged_frames_are_nobodys(instance: str) -> None:
    """The tags are 802.1Q, 802.1ad, 802.1Q behind a priority tag, and QinQ."""
    async with scene(instance) as at:
        own = str(at.hostile.attachment.v4)
        for tags in map(bytes.fromhex, ("81000005", "88a80005", "8100000081000005", "88a8000581000005")):
            tagged = [at.hostile.frame(payload, tags=tags) for payload in (syn(own, V4), question(own, V4))]
            assert await at.outcome_of_frames(*tagged) == {}
        assert await at.outcome(syn(own, V4), question(own, V4)) == TAKEN


@in_trio
async def test_a_priority_tag_changes_nothing(instance: str) -> None:
    async with scene(instance) as at:
        priority = bytes.fromhex("81000000")
        hostile, other = at.hostile.attachment, at.other.attachment
        for source, expected in ((hostile.v4, {"assigned_tcp": 1}), (other.v4, {"spoofed": 1})):
            frame = at.hostile.frame(syn(str(source), V4), tags=priority)
            assert await at.outcome_of_frames(frame) == expected


@in_trio
async def test_another_containers_hardware_address_leads_nowhere(instance: str) -> None:
    async with scene(instance) as at:
        own, theirs = str(at.hostile.attachment.v4), veth.mac(at.other.attachment)
        for member in (at.hostile, at.other):
            member.received()
        towards = [at.hostile.frame(payload, to=theirs) for payload in (syn(own, V4), question(own, V4))]
        assert await at.outcome_of_frames(*towards) == {}
        assert at.hostile.received() == []
        # As the sender's address it is ignored: the answer is sent by IP address.
        assert await at.outcome_of_frames(at.hostile.frame(syn(own, V4), by=theirs)) == {"assigned_tcp": 1}
        assert at.hostile.received()
        assert at.other.received() == []


# --- state that other containers depend on ----------------------------------------------------------------------


@pytest.mark.parametrize("hops", [255, 64])
@in_trio
async def test_a_router_advertisement_changes_nothing(instance: str, hops: int) -> None:
    prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 3600, 3600, 0) + frames.packed("2001:db8:bad::")
    rest = struct.pack("!BBHII", 64, 0, 1800, 0, 0) + prefix
    async with scene(instance) as at:
        before = at.network()
        ways = itertools.product(("fe80::bad", str(at.hostile.attachment.v6)), ("ff02::1", "fe80::1"))
        advertised = [frames.discovery(source, target, 134, rest, hops=hops) for source, target in ways]
        outcome = await at.outcome(*advertised)
        assert outcome == {"link_local": 2, "not_unicast": 1, "other_protocols": 1}
        assert at.network() == before
        # The control: the advertisement is well-formed, and changes a host that accepts advertisements.
        at.lift_rules()
        own = veth.name(at.hostile.attachment)
        at.command("sysctl", "-qw", f"net.ipv6.conf.{own}.accept_ra=1", f"net.ipv6.conf.{own}.autoconf=1")
        await at.outcome(*advertised)
        assert ("via fe80::bad" in at.network()) == (hops == 255)


@in_trio
async def test_a_redirect_changes_nothing(instance: str) -> None:
    async with scene(instance) as at:
        attachment, theirs = at.hostile.attachment, at.other.attachment
        inner = syn(V4, str(theirs.v4))
        v4 = frames.icmp(str(attachment.v4), V4, 5, 1, attachment.v4.packed + inner)
        v6 = frames.packed("fe80::bad", str(theirs.v6))
        before = at.network()
        redirects = [
            packet(str(attachment.v4), V4, frames.ICMP, v4),
            frames.discovery(str(attachment.v6), "fe80::1", 137, bytes(4) + v6),
            frames.discovery("fe80::bad", "fe80::1", 137, bytes(4) + v6),
        ]
        assert await at.outcome(*redirects) == {"other_protocols": 2, "link_local": 1}
        assert at.network() == before
        assert (at.statistic("IcmpInRedirects"), at.statistic("Icmp6InRedirects")) == (0, 0)
        at.lift_rules()
        await at.outcome(*redirects)
        assert (at.statistic("IcmpInRedirects"), at.statistic("Icmp6InRedirects")) == (1, 2)
        assert at.network() == before  # the gateway ignores redirects even without our rules


@pytest.mark.parametrize("target", [V4, V6])
@in_trio
async def test_no_container_shrinks_the_path_to_another(instance: str, target: str) -> None:
    """The container sends an ICMP error about a packet that our DNS socket could have sent to the other container."""
    async with scene(instance) as at:
        own, theirs = at.hostile.own(target), at.other.own(target)
        inner = packet(target, theirs, frames.UDP, struct.pack("!HHHH", 53, 4000, 1400, 1) + bytes(64))
        if target == V4:
            too_big = packet(own, V4, frames.ICMP, frames.icmp(own, V4, 3, 4, struct.pack("!HH", 0, 600) + inner))
        else:
            too_big = packet(own, V6, frames.ICMPV6, frames.icmp(own, V6, 2, 0, struct.pack("!I", 1280) + inner))
        assert await at.outcome(too_big) == {"other_protocols": 1}
        assert " mtu " not in at.command("ip", "route", "get", theirs)
        at.lift_rules()
        await at.outcome(too_big)
        assert " mtu " in at.command("ip", "route", "get", theirs)


@in_trio
async def test_arp_is_not_answered_and_teaches_nothing(instance: str) -> None:
    """All neighbours are permanent entries. The kernel's table of learnt neighbours is small, and all namespaces share
    it."""
    async with scene(instance) as at:
        mine, theirs = veth.mac(at.hostile.attachment), str(at.other.attachment.v4)
        own = str(at.hostile.attachment.v4)
        questions = [
            frames.arp(1, mine, sender, target)
            for sender in (own, theirs, "0.0.0.0", "203.0.113.10", "100.96.200.1")
            for target in ("169.254.1.1", theirs, own, "203.0.113.10")
        ]
        announced = [frames.arp(kind, mine, sender, sender) for kind in (1, 2) for sender in (theirs, "169.254.1.1")]
        forged = [
            at.hostile.frame(payload, frames.ARP, to=to)
            for payload in (*questions, *announced)
            for to in ("ff:ff:ff:ff:ff:ff", veth.GATEWAY_MAC)
        ]
        before = at.network()
        at.hostile.received()
        assert await at.outcome_of_frames(*forged) == {"arp": len(forged)}
        assert at.hostile.received() == []
        assert at.network() == before
        at.lift_rules()
        await at.outcome_of_frames(*forged)
        assert at.hostile.received()
        assert at.network() != before


@in_trio
async def test_neighbour_discovery_is_not_answered_and_teaches_nothing(instance: str) -> None:
    async with scene(instance) as at:
        mine = bytes.fromhex(veth.mac(at.hostile.attachment).replace(":", ""))
        theirs = str(at.other.attachment.v6)
        own = str(at.hostile.attachment.v6)
        solicited = [
            frames.discovery(source, "fe80::1", 135, bytes(4) + frames.packed("fe80::1") + b"\x01\x01" + mine)
            for source in (own, theirs, *(f"fe80::bad:{number:x}" for number in range(100)))
        ]
        advertised = [
            frames.discovery(source, "fe80::1", 136, b"\x60\0\0\0" + frames.packed(claimed) + b"\x02\x01" + mine)
            for source in (own, "fe80::bad:1")
            for claimed in (theirs, "fe80::1")
        ]
        before = at.network()
        at.hostile.received()
        outcome = await at.outcome(*solicited, *advertised)
        assert outcome == {"other_protocols": 3, "spoofed": 1, "link_local": 102}
        assert at.hostile.received() == []
        assert at.network() == before
        at.lift_rules()
        await at.outcome(*solicited, *advertised)
        assert at.hostile.received()
        assert at.network().count("fe80::bad:") >= 100


@pytest.mark.parametrize("address", [V4, V6])
@in_trio
async def test_a_flood_of_connection_attempts_keeps_nobody_else_out(instance: str, address: str) -> None:
    async with scene(instance) as at:
        own = at.hostile.own(address)
        # The half-open connections stay: the flooder's own stack gets no answer that it could reset.
        deaf = "add table inet deaf; add chain inet deaf input { type filter hook input priority 0; policy drop; }"
        at.hostile.container.command("nft", deaf)
        at.hostile.send(*(at.hostile.frame(syn(own, address)) for _ in range(6_000)))
        assert at.statistic("TcpExtTCPReqQFullDoCookies") > 0  # the queue is full
        for _ in range(20):
            with at.other.container.connect(address, 80) as client, await accept(at.gateway.listener) as accepted:
                assert plain(accepted.getpeername()[0]) == at.other.own(address)
                assert interface(accepted) == at.other.attachment.interface
                client.sendall(b"still here")
                assert accepted.recv(64) == b"still here"


@in_trio
async def test_a_flood_of_questions_leaves_room_for_anothers(instance: str) -> None:
    async with scene(instance, dns_rate=2_000) as at:
        own, theirs = str(at.hostile.attachment.v4), at.other.own(V4)
        flood = [at.hostile.frame(packet(own, V4, frames.UDP, udp(own, V4, 53, bytes(1400)))) for _ in range(20_000)]

        def questions_beside_a_flood() -> set[bytes]:
            """Returns the other container's queries that reach the DNS socket, which isn't read during the flood."""
            at.hostile.send(*flood)
            for number in range(100):
                at.other.container.send(str(number).encode(), V4, 53)
            found = set()
            while True:
                try:
                    payload, (client, *_) = at.gateway.dns.recvfrom(2048)
                except BlockingIOError:
                    return found
                if plain(client) == theirs:
                    found.add(payload)

        assert len(questions_beside_a_flood()) == 100
        assert at.gateway.counters()["flooded"] > 0
        at.lift_rules()
        assert len(questions_beside_a_flood()) < 100


@in_trio
async def test_twenty_thousand_questions_a_second_are_no_flood(instance: str) -> None:
    async with scene(instance) as at:
        own = str(at.hostile.attachment.v4)
        frame = at.hostile.frame(packet(own, V4, frames.UDP, udp(own, V4, 53, MARK)))
        came, count = 0, 20_000
        began = time.monotonic()
        for sent in range(0, count, 200):  # not faster than 20 000 a second, which the burst alone would not hold
            await trio.sleep(max(began + sent / 20_000 - time.monotonic(), 0))
            at.hostile.send(*[frame] * 200)
            with contextlib.suppress(BlockingIOError):
                while at.gateway.dns.recv(2048) == MARK:
                    came += 1
        assert came == count
        assert at.gateway.counters()["flooded"] == 0
