"""The addresses of clouds' metadata services, and the rules that name one."""

from __future__ import annotations

import ipaddress

import pytest
from pyinterceptor._relay import lib

from pyinterceptor.policy.addresses import packed, unpacked
from pyinterceptor.policy.metadata import METADATA, names_metadata
from pyinterceptor.policy.patterns import pattern
from pyinterceptor.policy.pieces import at_once

AZURE = "168.63.129.16"


def test_the_list_has_public_addresses_too_and_all_count_as_local() -> None:
    addresses = [unpacked(one.address) for one in METADATA]
    assert {"169.254.169.254", AZURE, "100.100.100.200", "fd00:ec2::254", "fd20:ce::254"} <= set(map(str, addresses))
    assert len(set(addresses)) == len(addresses)
    assert [str(one) for one in addresses if one.is_global] == [AZURE]
    assert all(lib.guard_is_local(packed(one)) for one in addresses)


@pytest.mark.parametrize("address", [AZURE, f"::ffff:{AZURE}", f"64:ff9b::{AZURE}", "2002:a83f:8110::1"])
def test_a_hidden_form_is_local_and_its_neighbour_is_not(address: str) -> None:
    parsed = ipaddress.ip_address(address)
    assert lib.guard_is_local(packed(parsed))
    assert not lib.guard_is_local(packed(ipaddress.ip_address("168.63.129.17")))


@pytest.mark.parametrize(
    ("hosts", "networks", "named"),
    [
        ([], [], False),
        ([AZURE], [], True),
        (["[fd00:ec2::254]"], [], True),
        ([f"::ffff:{AZURE}"], [], True),
        (["metadata.test", "*.16", "8.8.8.8", "1.2.3.4"], ["10.0.0.0/8", "168.63.129.17"], False),
        (["168.63.0.0/16"], [], True),
        (["168.64.0.0/16"], [], False),
        ([], [f"{AZURE}:80"], True),
        ([], ["10.0.0.0/8", "169.254.0.0/16"], True),
        ([], ["fd00::/8"], True),
        ([], ["0.0.0.0/0"], True),
    ],
)
def test_a_rule_names_a_metadata_address_by_itself_or_by_its_network(
    hosts: list[str], networks: list[str], named: bool
) -> None:
    served = [found for host in hosts if (found := pattern(host).network)]
    assert at_once(names_metadata(served, networks)) is named
