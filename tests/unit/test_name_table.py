"""The names of addresses: the table in C (cext/names.c)."""

import errno
import ipaddress
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pyinterceptor._relay import ffi, lib

from pyinterceptor.policy.addresses import packed

PAIR = ("198.18.1.0", "fd70:7969:6e74:1::100")
NEXT = ("198.18.1.1", "fd70:7969:6e74:1::101")
ONE, TWO, SIX = "203.0.113.1", "203.0.113.2", "2001:db8::6"


def wide(*addresses: str) -> bytes:
    return b"".join(packed(ipaddress.ip_address(address)) for address in addresses)


class Table:
    def __init__(self, names: Any) -> None:
        self._names = names

    def publish(self, name: str, *addresses: str, pair: tuple[str, str] | None = None, expires: float = 9.0) -> int:
        synthetic = ffi.NULL if pair is None else wide(*pair)
        return int(
            lib.names_publish(self._names, name.encode(), synthetic, wide(*addresses), len(addresses), expires)
        )

    def at(self, address: str) -> str | None:
        """Returns the name that this address stands for."""
        return text(lib.names_by_address(self._names, wide(address)))

    def dialled(self, address: str, host: str | None = None) -> str | None:
        """Returns the name whose other addresses may be dialled instead."""
        return text(lib.names_dialled(self._names, wide(address), ffi.NULL if host is None else host.encode()))

    def name(self, name: str) -> Any:
        return lib.names_by_text(self._names, name.encode())


def text(name: Any) -> str | None:
    return None if name == ffi.NULL else ffi.string(name.text).decode()


@pytest.fixture
def names() -> Iterator[Table]:
    made = lib.names_new(0x9E3779B97F4A7C15)
    yield Table(made)
    lib.names_free(made)


def test_both_synthetic_addresses_stand_for_their_name(names):
    assert names.publish("my.kv", pair=PAIR) == 0
    assert names.publish("other.kv", pair=NEXT) == 0
    assert [names.at(address) for address in (*PAIR, *NEXT, ONE)] == ["my.kv", "my.kv", "other.kv", "other.kv", None]


def test_a_synthetic_pair_passes_to_the_next_name_and_the_last_is_forgotten(names):
    names.publish("old.kv", pair=PAIR)
    assert names.publish("new.kv", pair=PAIR) == 0
    assert [names.at(address) for address in PAIR] == ["new.kv", "new.kv"]
    assert names.name("old.kv") == ffi.NULL


def test_a_pair_that_flows_are_open_to_stays_with_its_name(names):
    names.publish("old.kv", pair=PAIR)
    names.name("old.kv").flows += 1
    assert names.publish("new.kv", pair=PAIR) == -errno.EBUSY
    assert [names.at(address) for address in PAIR] == ["old.kv", "old.kv"]
    assert names.name("new.kv") == ffi.NULL
    assert names.publish("old.kv", pair=PAIR) == 0
    names.name("old.kv").flows -= 1
    assert names.publish("new.kv", pair=PAIR) == 0
    assert names.at(PAIR[0]) == "new.kv"


def test_pairs_are_reassigned_although_the_table_is_full(names):
    pairs = [(str(ipaddress.IPv4Address(0xC6120100 + n)), f"fd70:7969:6e74:1::1:{n:x}") for n in range(lib.NAMES_MAX)]
    for number, pair in enumerate(pairs):
        assert names.publish(f"first{number}.kv", pair=pair) == 0
    assert names.publish("one-more.kv", pair=("198.19.255.0", "fd70:7969:6e74:1::9999")) == -errno.ENOSPC
    for number, pair in enumerate(pairs):
        assert names.publish(f"second{number}.kv", pair=pair) == 0
    assert names.at(pairs[7][0]) == "second7.kv"
    assert names.publish("one-more.kv", pair=("198.19.255.0", "fd70:7969:6e74:1::9999")) == -errno.ENOSPC


def test_real_names_make_room_for_each_other_where_one_expires_first(names):
    for number in range(lib.NAMES_MAX):
        assert names.publish(f"n{number}.test", ONE, expires=100.0 + number) == 0
    assert names.publish("n0.test", ONE, expires=1e6) == 0
    assert names.publish("new.test", TWO) == 0
    assert names.name("n1.test") == ffi.NULL
    assert names.name("n0.test") != ffi.NULL
    assert names.at(TWO) == "new.test"


def test_a_real_name_costs_the_same_in_a_full_table(names):
    """In a full table a name replaces the one that expires first, whose addresses are freed."""

    def seconds(first: int) -> float:
        began = time.thread_time()
        for number in range(first, first + 1_000):
            address = str(ipaddress.IPv6Address((0x20010DB8 << 96) + number))
            assert names.publish(f"n{number}.test", address, expires=1e6 + number * 7919 % 4001) == 0
        return time.thread_time() - began

    empty = seconds(0)
    for number in range(10_000, 10_000 + lib.NAMES_MAX):
        addresses = [str(ipaddress.IPv6Address((0x20010DB9 << 96) + number * 4 + at)) for at in range(4)]
        names.publish(f"n{number}.test", *addresses, expires=1e5)
    full = seconds(20_000)
    assert full < 3 * empty, (full, empty)


def test_names_go_in_the_order_they_expire_whatever_changed_since(names):
    order = [number * 7919 % lib.NAMES_MAX for number in range(lib.NAMES_MAX)]
    for number in order:
        names.publish(f"n{number}.test", ONE, expires=1e6)
    for number in order:
        names.publish(f"n{number}.test", ONE, expires=10.0 + number)
    names.publish("n5.test", pair=PAIR)  # a rule serves it now: it does not expire any more
    going = [number for number in range(50) if number != 5]
    assert names.publish("first.test", TWO, expires=1e6) == 0  # it takes that place
    for count in range(1, len(going)):
        assert names.publish(f"late{count}.test", TWO, expires=1e6) == 0
        known = [number for number in range(50) if names.name(f"n{number}.test") != ffi.NULL]
        assert known == sorted({5, *going[count:]})


def test_nobody_outside_takes_a_synthetic_address_by_answering_with_it(names):
    names.publish("my.kv", pair=PAIR)
    assert names.publish("evil.test", PAIR[0], ONE) == 0
    assert names.at(PAIR[0]) == names.dialled(PAIR[0], "evil.test") == "my.kv"
    assert names.at(ONE) == "evil.test"


def test_a_real_address_stands_for_the_name_that_was_published_last(names):
    names.publish("a.test", ONE, SIX)
    names.publish("b.test", ONE)
    assert (names.at(ONE), names.at(SIX)) == ("b.test", "a.test")


def test_an_address_that_its_name_has_left_leads_to_the_name_until_another_has_it(names):
    names.publish("a.test", ONE)
    names.publish("a.test", TWO)
    assert names.dialled(ONE) == names.dialled(ONE, "a.test") == names.dialled(TWO) == "a.test"
    names.publish("b.test", ONE)
    assert (names.dialled(ONE), names.dialled(ONE, "a.test"), names.dialled(ONE, "b.test")) == (None, None, "b.test")


def test_a_names_other_addresses_serve_requests_for_that_name(names):
    names.publish("a.test", ONE, SIX)
    assert names.dialled(ONE) == names.dialled(ONE, "a.test") == names.dialled(SIX, "a.test") == "a.test"
    assert names.dialled(ONE, "never-asked.test") is None
    assert names.dialled(TWO) is None
    assert names.dialled(TWO, "a.test") is None


def test_a_name_that_publishes_anothers_address_does_not_get_its_connections(names):
    names.publish("victim.test", ONE)
    names.publish("evil.test", ONE, TWO)
    assert names.dialled(ONE, "victim.test") == "victim.test"
    assert names.dialled(ONE, "evil.test") == "evil.test"
    assert names.dialled(ONE) is None  # it is unknown which of them is meant
    assert names.dialled(TWO) == "evil.test"


@pytest.mark.parametrize("name", ["", "a" * 256])
def test_a_name_that_is_none_is_refused(names, name):
    assert names.publish(name, ONE) == -errno.EINVAL
    assert names.publish("a" * 255, ONE) == 0


def test_a_name_whose_addresses_keep_changing_keeps_a_bounded_number(names):
    """The name's DNS server may work for the container."""
    numbers = [str(ipaddress.IPv6Address((0x20010DB8 << 96) + number)) for number in range(40_000)]
    assert names.publish("still.test", ONE) == 0
    for address in numbers:
        assert names.publish("restless.test", address) == 0
    assert names.at(ONE) == "still.test"
    assert names.at(numbers[-1]) == "restless.test"
    known = sum(names.at(address) is not None for address in numbers)
    assert known <= 4 * 4096 + 1
