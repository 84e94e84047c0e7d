"""Learns the NAT64 prefixes of the host's network (RFC 7050), so that the dial guard sees the IPv4 address behind them.

An IPv6 address below such a prefix leads to an IPv4 address, perhaps a local one of the network's gateway.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import trio
from dns.rdatatype import AAAA

from pyinterceptor._relay import lib
from pyinterceptor.dns.query import question_of
from pyinterceptor.dns.upstream import NoAnswer, Upstream, addresses
from pyinterceptor.errors import PolicyError

NAME = b"\x08ipv4only\x04arpa\0"
WELL_KNOWN = {bytes([192, 0, 0, 170]), bytes([192, 0, 0, 171])}  # the addresses of NAME
LENGTHS = (96, 64, 56, 48, 40, 32)  # bits of a prefix (RFC 6052 section 2.2)
AGAIN = 60.0  # seconds, at least, between two questions


def add_prefixes(texts: Sequence[str]) -> None:
    """Adds the prefixes that the user names, for the life of the process. Raises PolicyError for a wrong one."""
    for text in texts:
        try:
            network = ipaddress.IPv6Network(text)
        except ValueError as error:
            raise PolicyError(f"nat64: {text!r} is not an IPv6 network: {error}") from error
        if not lib.address_add_nat64(network.network_address.packed, network.prefixlen):
            raise PolicyError(f"nat64: {text!r} must have 32, 40, 48, 56, 64 or 96 bits, and be one of {lib.NAT64_MAX}")


async def learn_prefixes(upstream: Upstream) -> None:
    """Asks for the network's prefixes, again and again, until cancelled. One that is gone is kept."""
    while True:
        seconds = AGAIN
        try:
            answer = await upstream.query(question_of(NAME, AAAA))
        except NoAnswer:
            pass
        else:
            seconds = max(answer.lowest if answer.packed else answer.ttl, AGAIN)
            for address in addresses(answer):
                for prefix, bits in prefixes_of(address.packed):
                    lib.address_add_nat64(prefix, bits)
        await trio.sleep(seconds)


def prefixes_of(address: bytes) -> list[tuple[bytes, int]]:
    """Returns the prefixes with which this IPv6 address would embed one of the well-known ones, with their bits."""
    if len(address) != 16:
        return []
    found = []
    for bits in LENGTHS:
        start = bits // 8
        embedded = (address[start:8] + address[9:])[:4] if start <= 8 else address[start:]
        if embedded in WELL_KNOWN and (start > 8 or address[8] == 0):
            found.append((address[:start] + bytes(16 - start), bits))
    return found
