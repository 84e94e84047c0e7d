"""The synthetic address of a name, and how long the name keeps it."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyinterceptor.dns import names as module
from pyinterceptor.dns.names import NAMES_MAX, REUSE_AFTER, SYNTHETIC, Names, NamesFull, Networks
from pyinterceptor.errors import PolicyError


def published(pair):
    return True


def full(now=0.0):
    """Returns Names whose addresses are all in use. Name number n was asked for at `now` + n microseconds."""
    names = Names(SYNTHETIC)
    for number in range(NAMES_MAX):
        names.pair(f"n{number}.kv", now + number / 1e6, published)
    return names


def test_every_name_gets_a_pair_of_its_own_inside_the_networks():
    names = full()
    pairs = [names.pair(f"n{number}.kv", 10.0, published) for number in range(NAMES_MAX)]
    assert len({pair.v4 for pair in pairs}) == len({pair.v6 for pair in pairs}) == NAMES_MAX
    assert all(pair.v4 in SYNTHETIC.v4 and pair.v6 in SYNTHETIC.v6 for pair in pairs)
    assert all(names.name_of(pair.v4) == names.name_of(pair.v6) == pair.name for pair in pairs)


def test_a_name_keeps_its_pair_and_is_published_once():
    seen = []
    names = Names(SYNTHETIC)
    first = names.pair("my.kv", 0.0, lambda pair: seen.append(pair.name) is None)
    names.pair("other.kv", 1.0, lambda pair: seen.append(pair.name) is None)
    again = names.pair("my.kv", 1e6, lambda pair: seen.append(pair.name) is None)
    assert (first.v4, first.v6) == (again.v4, again.v6)
    assert seen == ["my.kv", "other.kv"]


def test_a_full_container_has_no_address_for_another_name_before_one_may_be_reused():
    names = full()
    with pytest.raises(NamesFull):
        names.pair("one-more.kv", REUSE_AFTER - 0.001, published)
    assert names.pair("n7.kv", REUSE_AFTER - 0.001, published).v4 == names.pair("n7.kv", 0.0, published).v4


def test_after_its_ttl_and_a_margin_the_name_that_was_asked_longest_ago_gives_its_address():
    names = full()
    oldest, second = (names.pair(f"n{number}.kv", 1.0 + number, published).v4 for number in (0, 1))
    third = names.pair("n2.kv", 0.0, published).v4
    for number in range(2, NAMES_MAX):
        names.pair(f"n{number}.kv", 10.0, published)
    taken = names.pair("new.kv", REUSE_AFTER + 2.0, published)
    assert taken.v4 == oldest
    assert names.name_of(oldest) == names.name_of(taken.v6) == "new.kv"
    assert names.pair("newer.kv", REUSE_AFTER + 3.0, published).v4 == second
    with pytest.raises(NamesFull):
        names.pair("newest.kv", REUSE_AFTER + 4.0, published)
    assert names.name_of(third) == "n2.kv"


def test_an_address_that_flows_are_open_to_is_passed_over_and_its_time_begins_anew():
    names = full()
    held = names.pair("n0.kv", 0.0, published).v4
    for number in range(1, NAMES_MAX):
        names.pair(f"n{number}.kv", 1.0, published)
    taken = names.pair("new.kv", REUSE_AFTER + 5.0, lambda pair: pair.v4 != held)
    assert names.name_of(held) == "n0.kv"
    assert names.name_of(taken.v4) == "new.kv"
    assert names.pair("newer.kv", REUSE_AFTER + 6.0, published).v4 not in (held, taken.v4)


def test_flows_to_all_that_is_old_leave_no_address_and_no_trace():
    names = full()
    with pytest.raises(NamesFull):
        names.pair("new.kv", 2 * REUSE_AFTER, lambda pair: False)
    assert names.name_of(SYNTHETIC.v4[module.FIRST]) == "n0.kv"


def test_however_many_old_names_have_flows_the_next_one_without_gives_its_address():
    names = full()
    free = SYNTHETIC.v4[module.FIRST + 3_000]
    assert names.pair("new.kv", 2 * REUSE_AFTER, lambda pair: pair.v4 == free).v4 == free


def test_a_container_with_a_smaller_budget_has_as_many_names():
    names = Names(SYNTHETIC, 2)
    pairs = [names.pair(name, 0.0, published).v4 for name in ("a.kv", "b.kv")]
    with pytest.raises(NamesFull):
        names.pair("c.kv", REUSE_AFTER - 1, published)
    assert names.pair("c.kv", REUSE_AFTER, published).v4 == pairs[0]


def test_a_network_without_room_for_all_names_is_refused():
    small, wide = ipaddress.ip_network("10.9.0.0/16"), ipaddress.ip_network("10.8.0.0/15")
    v6 = ipaddress.ip_network("fd00::/64")
    with pytest.raises(PolicyError, match=r"10\.9\.0\.0/16"):
        Networks(small, v6)
    names = Names(Networks(wide, v6))
    assert names.pair("my.kv", 0.0, published).v4 in wide


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.floats(0, REUSE_AFTER / 2), st.booleans())))
def test_no_address_has_two_names_before_its_time_is_over(steps):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "NAMES_MAX", 4)
        names, now, given_to = Names(SYNTHETIC), 0.0, {}
        for name, passed, is_free in steps:
            now += passed
            try:
                pair = names.pair(name, now, lambda pair, is_free=is_free: is_free)
            except NamesFull:
                continue
            before = given_to.get(pair.v4)
            assert before is None or before[0] == name or now - before[1] >= REUSE_AFTER
            given_to[pair.v4] = (name, now)
            assert len(given_to) <= 4
            assert names.name_of(pair.v4) == names.name_of(pair.v6) == name
