"""Addresses and networks in the form that C uses: 16 bytes, v4 as v4-mapped (RFC 4291 section 2.5.5.2).

Pure.
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from pyinterceptor.errors import PolicyError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
V4_MAPPED = bytes(10) + b"\xff\xff"  # its first bytes
V4_PREFIX = 96  # bits before a v4-mapped address
ADDRESS = 128  # bits of the network of one address


class Network(NamedTuple):
    """The first `prefix` bits of a 16-byte `address`; the bits after them are zero."""

    address: bytes
    prefix: int


def packed(address: Address) -> bytes:
    """Returns the 16 bytes of an address."""
    return address.packed if address.version == 6 else V4_MAPPED + address.packed


def unpacked(address: bytes) -> Address:
    """Returns the address that 16 bytes stand for: a v4 address if they are v4-mapped."""
    wide = ipaddress.IPv6Address(address)
    return wide.ipv4_mapped or wide


def single(address: Address) -> Network:
    """Returns the network that holds this address alone."""
    return Network(packed(address), ADDRESS)


def network_of(parsed: ipaddress.IPv4Network | ipaddress.IPv6Network) -> Network:
    """Returns the network in the form that C uses."""
    return Network(packed(parsed.network_address), parsed.prefixlen + (V4_PREFIX if parsed.version == 4 else 0))


def written(network: Network) -> str:
    """Returns a network as text, or the address if it holds one alone."""
    address, prefix = network
    first = unpacked(address) if prefix >= V4_PREFIX else ipaddress.IPv6Address(address)
    if prefix == ADDRESS:
        return str(first)
    return f"{first}/{prefix - V4_PREFIX if first.version == 4 else prefix}"


def network(text: str) -> tuple[Network, int]:
    """Reads "10.1.0.0/16", "127.0.0.1", "127.0.0.1:5432", "fd00::/8" or "[::1]:80". Port 0 stands for any port.

    Raises PolicyError that quotes the text and names its fault.
    """
    try:
        host, port = split_port(text)
        parsed = ipaddress.ip_network(host)
    except (ValueError, AttributeError) as error:
        raise PolicyError(f"local_networks: {text!r} is not a network or address with a port: {error}") from error
    return network_of(parsed), port


def overlap(one: Network, other: Network) -> bool:
    """Whether one network holds the other."""
    shift = 128 - min(one.prefix, other.prefix)
    return int.from_bytes(one.address, "big") >> shift == int.from_bytes(other.address, "big") >> shift


def split_port(text: str) -> tuple[str, int]:
    """Returns host and port of `host`, `host:port`, `[v6]` or `[v6]:port`; the port is 0 if there is none.

    Raises ValueError.
    """
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and rest[0] != ":"):
            raise ValueError("its brackets don't match")
        return (host, _port(rest[1:])) if rest else (host, 0)
    if text.count(":") == 1:
        host, _, port = text.partition(":")
        return host, _port(port)
    return text, 0


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise ValueError(f"{text!r} is not a port")
    return int(text)
