"""NAT64 prefixes: which ones an answer for ipv4only.arpa names, and the IPv4 address behind an address below one."""

import ipaddress

import pytest
from pyinterceptor._relay import ffi, lib

from pyinterceptor.dns.nat64 import add_prefixes, prefixes_of
from pyinterceptor.errors import PolicyError

# RFC 6052 section 2.4, with 192.0.2.33
EXAMPLES = [
    ("2001:db8::/32", "2001:db8:c000:221::"),
    ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
    ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
    ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
    ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
    ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
]


def hidden(address):
    out = ffi.new("uint8_t[16]")
    found = lib.address_hidden(ipaddress.IPv6Address(address).packed, out)
    return str(ipaddress.IPv6Address(bytes(out)).ipv4_mapped) if found else None


def embedded(prefix, address):
    """Returns the address with 192.0.0.170 in the place of 192.0.2.33."""
    network, before = ipaddress.IPv6Network(prefix), bytearray(ipaddress.IPv6Address(address).packed)
    at, left = network.prefixlen // 8, [192, 0, 0, 170]
    while left:
        if at != 8:
            before[at] = left.pop(0)
        at += 1
    return bytes(before)


@pytest.mark.parametrize(("prefix", "address"), EXAMPLES)
def test_a_prefix_is_learnt_from_the_well_known_name(prefix, address):
    network = ipaddress.IPv6Network(prefix)
    assert (network.network_address.packed, network.prefixlen) in prefixes_of(embedded(prefix, address))
    assert prefixes_of(ipaddress.IPv6Address(address).packed) == []


def test_an_ipv4_answer_names_no_prefix():
    assert prefixes_of(bytes([192, 0, 0, 170])) == []


def test_the_address_behind_a_named_prefix_is_found():
    """The table is the process's, so each example has a first half of its own."""
    for number, (prefix, address) in enumerate(EXAMPLES):
        mine = f"{0x2A00 + number:x}:db8"
        assert hidden(address.replace("2001:db8", mine, 1)) is None
        add_prefixes([prefix.replace("2001:db8", mine, 1)])
        assert hidden(address.replace("2001:db8", mine, 1)) == "192.0.2.33"
    assert hidden("2a10:db8::c0:2:2100:0") is None


def test_a_local_address_behind_a_named_prefix_is_local():
    address = ipaddress.IPv6Address("2a20:dbb:64::127.0.0.1").packed
    assert not lib.guard_is_local(address)
    add_prefixes(["2a20:dbb:64::/96"])
    assert lib.guard_is_local(address)
    assert not lib.guard_is_local(ipaddress.IPv6Address("2a20:dbb:64::203.0.113.7").packed)


@pytest.mark.parametrize("text", ["10.0.0.0/8", "2a30:db8::/33", "2a30:db8::1/96", "nonsense"])
def test_a_wrong_prefix_is_refused(text):
    with pytest.raises(PolicyError, match="nat64"):
        add_prefixes([text])
