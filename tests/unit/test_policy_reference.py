"""The one matcher against a slow reference, on random policies and requests."""

import ipaddress

from hypothesis import given, settings
from hypothesis import strategies as st
from pyinterceptor._relay import lib

from pyinterceptor.policy.addresses import Network, packed
from pyinterceptor.policy.hosts import canonical
from pyinterceptor.policy.layout import Outcome, Takes
from pyinterceptor.policy.rows import Row
from pyinterceptor.policy.table import decide, decide_name
from tests.unit.policies import Plan, best_for_name, decided, table

# Few bytes and bits, so that rows overlap: equal keys, keys within others, addresses embedded in others.
LABELS = st.text("ab", min_size=1, max_size=3)
HOSTS = st.lists(LABELS, min_size=1, max_size=3).map(".".join)
GLOBS = st.text("ab.*", min_size=1, max_size=6).filter(lambda text: "*" in text)
SMALL = st.integers(0, 7)
V4 = SMALL.map(lambda low: ipaddress.IPv4Address("203.0.113.0") + low)
FORMS = ["::{}", "64:ff9b::{}", "::ffff:0:{}", "::ffff:{}"]
ADDRESSES = st.one_of(
    V4,
    st.tuples(st.sampled_from(FORMS), V4).map(lambda made: ipaddress.IPv6Address(made[0].format(made[1]))),
    V4.map(lambda v4: ipaddress.IPv6Address(0x2002 << 112 | int(v4) << 80 | 1)),
    SMALL.map(ipaddress.IPv6Address),
    SMALL.map(lambda low: ipaddress.IPv6Address("2001:db8::") + low),
)
CANONICAL = st.one_of(HOSTS, st.just(""), ADDRESSES.map(str).map(canonical))


def cut(address, prefix):
    bits = int.from_bytes(packed(address), "big") >> (128 - prefix) << (128 - prefix)
    return Network(bits.to_bytes(16, "big"), prefix)


KEYS = st.one_of(
    HOSTS,
    GLOBS,
    st.builds(cut, ADDRESSES, st.sampled_from([0, 16, 95, 96, 120, 126, 127, 128])),
    st.none(),
)
PORTS = st.sampled_from([0, 0, 22, 80])
MASKS = st.sampled_from([0x1F, 0x1F, 0x1E, 0x02, 0x1D, 0x00])
TARGETS = (Takes.HTTP, Takes.STREAM)
ROWS = st.lists(st.tuples(KEYS, st.sampled_from([0, 1, lib.NO_TARGET]), PORTS, MASKS), max_size=8)


@st.composite
def plans(draw):
    made = []
    for number in range(draw(st.integers(0, 4))):
        keys = draw(ROWS)
        ranks = draw(st.permutations(range(len(keys))))
        rows = [
            Row(key, 100 * number + rank, rank, target, port, protocols)
            for rank, (key, target, port, protocols) in zip(ranks, keys, strict=True)
        ]
        on_match = draw(st.sampled_from(list(Outcome)))
        on_miss = draw(st.sampled_from([Outcome.NEXT, Outcome.NEXT, Outcome.SPLICE, Outcome.REFUSE]))
        made.append(Plan(tuple(rows), on_match, on_miss))
    return made


@settings(max_examples=400)
@given(
    plans(),
    st.integers(0, lib.PROTOCOL_OPAQUE),
    CANONICAL,
    st.one_of(st.none(), st.tuples(ADDRESSES, st.sampled_from([22, 80]))),
)
def test_a_decision_is_that_of_the_reference(plans, protocol, host, destination):
    made = decide(table(plans, TARGETS, (80,)), protocol, host if ":" not in host else f"[{host}]", destination)
    expected = decided(plans, TARGETS, (80,), protocol, host, destination)
    found = (made.verdict, made.rule, made.stage, made.target, made.reason)
    assert found == (expected.verdict, expected.rule, expected.stage, expected.target, expected.reason)


NETWORK_KEYS = st.builds(cut, ADDRESSES, st.sampled_from([0, 16, 95, 96, 124, 126, 127, 128]))


@settings(max_examples=300)
@given(
    st.lists(st.one_of(NETWORK_KEYS, NETWORK_KEYS, HOSTS, GLOBS), min_size=1, max_size=12),
    st.randoms(use_true_random=False),
    CANONICAL,
    ADDRESSES,
)
def test_the_row_of_the_lowest_rank_is_found_in_every_index(keys, random, host, address):
    ranks = random.sample(range(len(keys)), len(keys))
    rows = [Row(key, rank, rank, 0) for key, rank in zip(keys, ranks, strict=True)]
    plan, at = Plan(tuple(rows), Outcome.TARGET, Outcome.REFUSE), (address, 80)
    made = decide(table([plan], TARGETS), lib.PROTOCOL_HTTP, host if ":" not in host else f"[{host}]", at)
    assert made.rule == decided([plan], TARGETS, (), lib.PROTOCOL_HTTP, host, at).rule


@settings(max_examples=200)
@given(plans(), CANONICAL)
def test_the_verdict_for_a_name_is_that_of_the_reference(plans, host):
    assert decide_name(table(plans, TARGETS), host if ":" not in host else f"[{host}]") == best_for_name(plans, host)


@given(plans(), st.integers(0, lib.PROTOCOL_OPAQUE), HOSTS, st.tuples(ADDRESSES, st.sampled_from([22, 80])))
def test_a_name_could_get_whatever_something_sent_to_it_gets(plans, protocol, host, destination):
    blob = table([plan for plan in plans if not any(isinstance(row.key, Network) for row in plan.rows)], TARGETS)
    assert decide(blob, protocol, host, destination).verdict <= decide_name(blob, host)
