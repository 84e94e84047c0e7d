"""Whole packets with arbitrary contents, as a hostile container could send them.

Pure. Addresses are strings; they determine the IP family of a packet and of its payload.
"""

from __future__ import annotations

import itertools
import struct
from ipaddress import ip_address

ICMP, IGMP, TCP, UDP, ICMPV6 = 1, 2, 6, 17, 58
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION = 0, 43, 44, 60  # the IPv6 extension headers
ETHERTYPES = {4: 0x0800, 6: 0x86DD}
ARP = 0x0806
SYN = 0x02

_ports = itertools.count(20_000)  # each connection attempt gets a new one


def version(address: str) -> int:
    return ip_address(address).version


def packed(*addresses: str) -> bytes:
    return b"".join(ip_address(address).packed for address in addresses)


def checksum(data: bytes) -> int:
    """Returns the Internet checksum of RFC 1071."""
    data += bytes(len(data) % 2)
    total = sum(word for (word,) in struct.iter_unpack("!H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packet(source: str, target: str, protocol: int, payload: bytes, **options: int | bytes) -> bytes:
    """Returns an IP packet. Options for IPv4: `options` (bytes, a multiple of four) and `fragment` (the header field
    with flags and offset); for IPv6: `hops`."""
    return (ipv4 if version(target) == 4 else ipv6)(source, target, protocol, payload, **options)  # type: ignore[operator]


def ipv4(source: str, target: str, protocol: int, payload: bytes, *, options: bytes = b"", fragment: int = 0) -> bytes:
    words = 5 + len(options) // 4
    length = words * 4 + len(payload)
    start = struct.pack("!BBHHHBB", 0x40 | words, 0, length, 7, fragment, 64, protocol)
    end = packed(source, target) + options
    return start + struct.pack("!H", checksum(start + b"\0\0" + end)) + end + payload


def ipv6(source: str, target: str, protocol: int, payload: bytes, *, hops: int = 64) -> bytes:
    return struct.pack("!IHBB", 6 << 28, len(payload), protocol, hops) + packed(source, target) + payload


def with_checksum(source: str, target: str, protocol: int, message: bytes, at: int) -> bytes:
    """Returns the message with its checksum, which covers the pseudo-header, at this offset."""
    pseudo = packed(source, target) + struct.pack("!II", len(message), protocol)
    return message[:at] + struct.pack("!H", checksum(pseudo + message)) + message[at + 2 :]


def tcp(source: str, target: str, port: int, *, flags: int = SYN, options: bytes = b"") -> bytes:
    words = 5 + len(options) // 4
    ports = struct.pack("!HH", next(_ports), port)
    message = ports + struct.pack("!IIBBHHH", 1, 0, words << 4, flags, 65_535, 0, 0) + options
    return with_checksum(source, target, TCP, message, 16)


def udp(source: str, target: str, port: int, payload: bytes = b"question") -> bytes:
    message = struct.pack("!HHHH", next(_ports), port, 8 + len(payload), 0) + payload
    return with_checksum(source, target, UDP, message, 6)


def icmp(source: str, target: str, kind: int, code: int, rest: bytes) -> bytes:
    message = struct.pack("!BBH", kind, code, 0) + rest
    if version(target) == 6:
        return with_checksum(source, target, ICMPV6, message, 2)
    return message[:2] + struct.pack("!H", checksum(message)) + message[4:]


def syn(source: str, target: str, port: int = 80, **options: int | bytes) -> bytes:
    """Returns a whole packet with a TCP SYN."""
    return packet(source, target, TCP, tcp(source, target, port), **options)


def question(source: str, target: str, port: int = 53, **options: int | bytes) -> bytes:
    """Returns a whole packet with a UDP datagram. With port 53, it is meant for the DNS socket."""
    return packet(source, target, UDP, udp(source, target, port), **options)


def echo(source: str, target: str) -> bytes:
    """Returns an ICMP echo request."""
    v6 = version(target) == 6
    message = icmp(source, target, 128 if v6 else 8, 0, struct.pack("!HH", 1, 1))
    return packet(source, target, ICMPV6 if v6 else ICMP, message)


def discovery(source: str, target: str, kind: int, rest: bytes, *, hops: int = 255) -> bytes:
    """Returns a neighbour or router discovery message (RFC 4861). `rest` is the part after the checksum."""
    return ipv6(source, target, ICMPV6, icmp(source, target, kind, 0, rest), hops=hops)


def arp(operation: int, mac: str, sender: str, target: str) -> bytes:
    hardware = bytes.fromhex(mac.replace(":", ""))
    start = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    return start + hardware + packed(sender) + bytes(6) + packed(target)


def ethernet(target: str, source: str, kind: int, payload: bytes, tags: bytes = b"") -> bytes:
    """Returns an Ethernet frame. `tags` are the 802.1Q or 802.1ad tags before its type."""
    addresses = bytes.fromhex((target + source).replace(":", ""))
    return (addresses + tags + struct.pack("!H", kind) + payload).ljust(60, b"\0")
