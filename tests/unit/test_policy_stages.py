"""Stages and their rows: the whole order of a decision, written as data, and each part of that order."""

import ipaddress

import pytest
from pyinterceptor._relay import ffi, lib

from pyinterceptor.errors import PolicyError
from pyinterceptor.policy.layout import Outcome, Takes
from pyinterceptor.policy.rows import SPOKEN, Row
from pyinterceptor.policy.table import decide, decide_name
from tests.unit.policies import Plan, network, table

PUBLIC = ipaddress.ip_address("203.0.113.9")
HTTP, TLS, OPAQUE, NONE = lib.PROTOCOL_HTTP, lib.PROTOCOL_TLS, lib.PROTOCOL_OPAQUE, lib.PROTOCOL_NONE
NAMES = ("refused", "spliced", "handled")  # by verdict


def rows(*keys, first=0, protocols=SPOKEN):
    """Returns rows in the order of their ranks; rules and targets are counted from `first`."""
    return tuple(
        Row(key, first + number, number, first + number, protocols=protocols) for number, key in enumerate(keys)
    )


def named(*keys, first):
    """Returns the rows of a list: they have no target, and match every protocol."""
    return tuple(Row(key, first + number, number) for number, key in enumerate(keys))


ALLOWED = named("*.packages.test", network("198.51.100.0/24"), "my.kv", "denied.packages.test", "*.db.test", first=10)
TEN_STEPS = [
    Plan(named("denied.packages.test", network("203.0.113.66"), first=0), Outcome.REFUSE, Outcome.NEXT),
    Plan(ALLOWED, Outcome.NEXT, Outcome.REFUSE),
    Plan(
        (  # in the order of registration; the row for everything is last
            Row("*.db.test", 20, 0, 0, port=6379, protocols=0x1F),
            Row("seen.packages.test", 21, 1, 1, protocols=SPOKEN),
            Row(network("198.51.100.7"), 22, 2, 1, port=8080, protocols=SPOKEN),
        ),
        Outcome.TARGET,
        Outcome.NEXT,
    ),
    Plan((Row("my.kv", 30, 0, 2, protocols=SPOKEN),), Outcome.TARGET, Outcome.NEXT),
    Plan(
        (Row("my.kv", 40, 0, 3), Row("by-host.packages.test", 41, 1, 3, protocols=SPOKEN)), Outcome.TARGET, Outcome.NEXT
    ),
    Plan((), Outcome.TARGET, Outcome.NEXT),  # no catch-all at run time
    Plan((), Outcome.TARGET, Outcome.NEXT),  # nor on the class
    Plan(ALLOWED, Outcome.SPLICE, Outcome.NEXT),
    Plan((), Outcome.REFUSE, Outcome.NEXT),  # the internet is off
    Plan((), Outcome.REFUSE, Outcome.REFUSE),
]
TEN_TARGETS = (Takes.STREAM, Takes.HTTP, Takes.HTTP, Takes.HTTP)


@pytest.mark.parametrize(
    ("protocol", "host", "at", "port", "verdict", "stage", "rule"),
    [
        (HTTP, "denied.packages.test", PUBLIC, 80, "refused", 0, 0),
        (TLS, "denied.packages.test", PUBLIC, 443, "refused", 0, 0),
        (NONE, "denied.packages.test", PUBLIC, 22, "refused", 0, 0),
        (HTTP, "a.packages.test", "203.0.113.66", 80, "refused", 0, 1),
        (HTTP, "a.packages.test", "64:ff9b::cb00:7142", 80, "refused", 0, 1),
        (HTTP, "[64:ff9b::cb00:7142]", PUBLIC, 80, "refused", 0, 1),
        (HTTP, "other.test", PUBLIC, 80, "refused", 1, None),
        (OPAQUE, "", PUBLIC, 9000, "refused", 1, None),
        (NONE, "cache.db.test", PUBLIC, 6379, "handled", 2, 20),
        (TLS, "cache.db.test", PUBLIC, 6379, "handled", 2, 20),
        (NONE, "cache.db.test", PUBLIC, 6380, "spliced", 7, 14),
        (HTTP, "seen.packages.test", PUBLIC, 80, "handled", 2, 21),
        (TLS, "seen.packages.test", PUBLIC, 443, "refused", 2, 21),
        (HTTP, "a.packages.test", "198.51.100.7", 8080, "handled", 2, 22),
        (HTTP, "a.packages.test", "198.51.100.7", 8081, "spliced", 7, 10),
        (HTTP, "my.kv", PUBLIC, 80, "handled", 3, 30),
        (NONE, "my.kv", PUBLIC, 22, "refused", 4, 40),
        (HTTP, "by-host.packages.test", PUBLIC, 80, "handled", 4, 41),
        (HTTP, "www.packages.test", PUBLIC, 80, "spliced", 7, 10),
        (TLS, "", "198.51.100.9", 443, "spliced", 7, 11),
        (OPAQUE, "", "64:ff9b::c633:6409", 22, "spliced", 7, 11),
    ],
)
def test_the_ten_steps_of_a_decision_are_stages(protocol, host, at, port, verdict, stage, rule):
    made = decide(table(TEN_STEPS, TEN_TARGETS), protocol, host, (ipaddress.ip_address(str(at)), port))
    assert (NAMES[made.verdict], made.stage, made.rule) == (verdict, stage, lib.NO_RULE if rule is None else rule)


def test_without_an_allow_list_the_internet_or_the_last_stage_answers():
    for internet, verdict in ((Outcome.SPLICE, "spliced"), (Outcome.NEXT, "refused")):
        steps = [TEN_STEPS[0], *TEN_STEPS[2:7], Plan((), Outcome.REFUSE, internet), TEN_STEPS[9]]
        assert NAMES[decide(table(steps, TEN_TARGETS), HTTP, "other.test", (PUBLIC, 80)).verdict] == verdict


def test_an_empty_allow_list_allows_nothing():
    steps = [TEN_STEPS[0], Plan((), Outcome.NEXT, Outcome.REFUSE), *TEN_STEPS[2:]]
    for host in ("my.kv", "www.packages.test", ""):
        made = decide(table(steps, TEN_TARGETS), HTTP, host, (PUBLIC, 80))
        assert (made.verdict, made.stage, made.reason) == (lib.VERDICT_REFUSE, 1, lib.REASON_MISS)


@pytest.mark.parametrize(
    ("host", "verdict"),
    [("denied.packages.test", "refused"), ("other.test", "refused"), ("cache.db.test", "handled"), ("my.kv", "handled")]
    + [("www.packages.test", "spliced"), ("203.0.113.66", "refused"), ("198.51.100.9", "spliced"), ("", "refused")]
    + [("198.51.100.7", "handled")],
)
def test_a_name_gets_the_best_verdict_of_any_port(host, verdict):
    assert NAMES[decide_name(table(TEN_STEPS, TEN_TARGETS), host)] == verdict


def test_rows_of_any_kind_answer_in_the_order_of_their_ranks():
    keys = ["my.kv", "*.kv", network("203.0.113.0/24"), None]
    for turn in range(4):
        order = keys[turn:] + keys[:turn]
        blob = table([Plan(rows(*order), Outcome.TARGET, Outcome.REFUSE)], (Takes.HTTP,) * 4)
        assert decide(blob, HTTP, "my.kv", (PUBLIC, 80)).rule == 0


def test_a_decision_names_the_kind_of_its_match():
    keys = ["my.kv", "*.kv", network("203.0.113.9"), network("198.51.100.0/24"), None]
    blob = table([Plan(rows(*keys), Outcome.TARGET, Outcome.REFUSE)], (Takes.HTTP,) * 5)
    elsewhere = ipaddress.ip_address("192.0.2.1")
    for host, at, matched in [
        ("my.kv", PUBLIC, lib.MATCHED_NAME),
        ("a.kv", PUBLIC, lib.MATCHED_GLOB),
        ("a.test", PUBLIC, lib.MATCHED_DESTINATION),
        ("198.51.100.1", elsewhere, lib.MATCHED_LITERAL),
        ("a.test", elsewhere, lib.MATCHED_ALL),
    ]:
        assert decide(blob, HTTP, host, (at, 80)).matched == matched


def test_a_row_holds_for_its_port_and_protocols_alone():
    plans = [Plan((Row("my.kv", 3, 0, 0, port=8080, protocols=1 << HTTP),), Outcome.TARGET, Outcome.SPLICE)]
    blob = table(plans, (Takes.HTTP,))
    assert decide(blob, HTTP, "my.kv", (PUBLIC, 8080)).verdict == lib.VERDICT_HANDLE
    assert decide(blob, HTTP, "my.kv", (PUBLIC, 80)).verdict == lib.VERDICT_SPLICE
    assert decide(blob, TLS, "my.kv", (PUBLIC, 8080)).verdict == lib.VERDICT_SPLICE
    assert decide(blob, HTTP, "my.kv", None).verdict == lib.VERDICT_SPLICE


@pytest.mark.parametrize("protocol", [NONE, HTTP, TLS, lib.PROTOCOL_HTTP2, OPAQUE])
def test_a_stream_target_takes_any_protocol_and_an_http_target_refuses_all_but_http(protocol):
    for takes in (Takes.STREAM, Takes.HTTP):
        made = decide(
            table([Plan((Row(None, 3, 0, 0),), Outcome.TARGET, Outcome.REFUSE)], (takes,)), protocol, "", None
        )
        if takes is Takes.STREAM or protocol == HTTP:
            assert (made.verdict, made.target, made.reason) == (lib.VERDICT_HANDLE, 0, lib.REASON_MATCH)
        else:
            assert (made.verdict, made.target, made.reason) == (lib.VERDICT_REFUSE, 0, lib.REASON_NOT_HTTP)


def test_a_matching_row_without_a_target_is_refused():
    made = decide(table([Plan((Row(None, 3, 0),), Outcome.TARGET, Outcome.SPLICE)]), HTTP, "my.kv", (PUBLIC, 80))
    assert (made.verdict, made.rule, made.target) == (lib.VERDICT_REFUSE, 3, lib.NO_TARGET)


def test_a_policy_without_stages_refuses():
    made = decide(table([]), HTTP, "my.kv", (PUBLIC, 80))
    assert (made.verdict, made.stage, made.reason) == (lib.VERDICT_REFUSE, lib.NO_STAGE, lib.REASON_NO_STAGE)


def test_the_ports_that_wait_are_the_tables():
    stages = [Plan((Row(None, 0, 0, 0, protocols=SPOKEN),), Outcome.TARGET, Outcome.SPLICE)]
    blob = table(stages, (Takes.HTTP,), waits=(8080,))
    for port, waits in ((8080, True), (80, False), (443, False)):
        assert bool(lib.policy_waits(ffi.from_buffer(blob), port)) is waits
        silent = decide(blob, NONE, "", (PUBLIC, port))
        assert silent.verdict == (lib.VERDICT_REFUSE if waits else lib.VERDICT_SPLICE)
    with pytest.raises(PolicyError, match="at most 64 ports"):
        table(stages, (Takes.HTTP,), waits=range(1, 66))


def test_a_policy_without_rows_decides_all_alike():
    def differs(*plans):
        return bool(lib.policy_differs(ffi.from_buffer(table(plans, (Takes.HTTP,)))))

    assert not differs(Plan((), Outcome.TARGET, Outcome.NEXT), Plan((), Outcome.REFUSE, Outcome.SPLICE))
    for key in ("my.kv", "*.kv", "a*", "a*b", network("203.0.113.0/24"), None):
        assert differs(Plan((), Outcome.TARGET, Outcome.NEXT), Plan((Row(key, 0, 0, 0),), Outcome.TARGET, Outcome.NEXT))


def test_a_host_is_named_by_a_row_of_its_own_but_not_by_one_for_all():
    plans = [Plan(rows("my.kv", network("203.0.113.66"), None), Outcome.TARGET, Outcome.NEXT)]
    blob = ffi.from_buffer(table(plans, (Takes.HTTP,) * 3))
    endpoint = ffi.new("struct endpoint *", (network("203.0.113.66").address, 22, 0))
    assert lib.policy_names_host(blob, b"my.kv", 5, ffi.NULL)
    assert lib.policy_names_host(blob, ffi.NULL, 0, endpoint)
    assert not lib.policy_names_host(blob, b"other.kv", 8, ffi.NULL)


def test_two_addresses_of_one_name_are_the_same_only_with_one_verdict_and_rule():
    plans = [
        Plan(rows(network("203.0.113.66")), Outcome.TARGET, Outcome.NEXT),
        Plan((), Outcome.REFUSE, Outcome.SPLICE),
    ]
    blob = ffi.from_buffer(table(plans, (Takes.HTTP,)))

    def to(address):
        endpoint = ffi.new("struct endpoint *", (network(address).address, 80, 0))
        return ffi.new("struct decision *", lib.policy_decide(blob, TLS, b"a.test", 6, endpoint))

    assert lib.policy_same(to("192.0.2.1"), to("192.0.2.2"))
    assert not lib.policy_same(to("192.0.2.1"), to("203.0.113.66"))
    assert not lib.policy_same(to("192.0.2.1"), to("64:ff9b::cb00:7142"))


def test_stages_share_the_bytes_of_the_same_rows():
    shared = rows(*(f"{number}.test" for number in range(100)))
    once = table([Plan(shared, Outcome.NEXT, Outcome.REFUSE)], (Takes.HTTP,) * 100)
    twice = table(
        [Plan(shared, Outcome.NEXT, Outcome.REFUSE), Plan(shared, Outcome.SPLICE, Outcome.NEXT)], (Takes.HTTP,) * 100
    )
    assert len(twice) == len(once) + ffi.sizeof("struct policy_stage")
    assert decide(twice, HTTP, "7.test", None).verdict == lib.VERDICT_SPLICE


def test_a_v6_network_holds_no_v4_address():
    blob = table([Plan(rows(network("::/0")), Outcome.TARGET, Outcome.SPLICE)], (Takes.HTTP,))
    assert decide(blob, HTTP, "", (PUBLIC, 80)).verdict == lib.VERDICT_SPLICE
    assert decide(blob, HTTP, "", (ipaddress.ip_address("2001:db8::1"), 80)).verdict == lib.VERDICT_HANDLE
