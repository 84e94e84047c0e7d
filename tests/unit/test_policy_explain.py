"""A decision explained from the table's own bytes."""

import ipaddress

from hypothesis import given
from hypothesis import strategies as st
from pyinterceptor._relay import lib

from pyinterceptor.policy.explain import explain, lines
from pyinterceptor.policy.layout import Outcome, Takes
from pyinterceptor.policy.rows import SPOKEN, Row
from tests.unit.policies import Plan, holds, network, table
from tests.unit.test_policy_reference import ADDRESSES, CANONICAL, TARGETS, plans

AT = (ipaddress.ip_address("203.0.113.9"), 80)
STAGES = ("denied", "allowed", "by host", "all")
RULES = ("evil.*", "203.0.113.0/24", "*.kv", "*.my.kv", "my.*", "m*v", "everything")
PLANS = [
    Plan((Row("evil.*", 0, 0),), Outcome.REFUSE, Outcome.NEXT),
    Plan((Row(network("203.0.113.0/24"), 1, 0), Row("no.kv", 1, 1)), Outcome.NEXT, Outcome.REFUSE),
    Plan(
        (
            Row("*.kv", 2, 0, 0, port=8080, protocols=SPOKEN),
            Row("*.my.kv", 3, 1, 0, protocols=SPOKEN & ~(1 << lib.PROTOCOL_HTTP)),
            Row("a.*", 4, 2, 0, protocols=SPOKEN),
            Row("a*v", 5, 3, 0, protocols=SPOKEN),
            Row("b.my.kv", 6, 4, 0, protocols=SPOKEN),
        ),
        Outcome.TARGET,
        Outcome.NEXT,
    ),
    Plan((Row(None, 6, 0, 0, protocols=SPOKEN),), Outcome.TARGET, Outcome.NEXT),
]


def test_every_stage_and_row_of_a_decision_is_shown():
    steps, decision = explain(table(PLANS, (Takes.HTTP,)), lib.PROTOCOL_HTTP, "a.my.kv", AT)
    assert lines(steps, decision, STAGES, RULES) == [
        "denied: 1 row, 0 for this host or address, next",
        "allowed: 2 rows, 1 for this host or address, next",
        "  203.0.113.0/24: matches",
        "by host: 5 rows, 4 for this host or address, target",
        "  *.kv port 8080: for another port",
        "  *.my.kv: not for HTTP",
        "  a.*: matches",
        "  a*v: after the one that matches",
        "handled by my.*: a row matches",
    ]


def test_a_refusal_gives_its_reason():
    blob = table(PLANS, (Takes.HTTP,))
    steps, decision = explain(blob, lib.PROTOCOL_TLS, "x.test", AT)
    assert lines(steps, decision, STAGES, RULES)[-3:] == [
        "all: 1 row, 1 for this host or address, target",
        "  *: matches",
        "refused by everything: its target takes HTTP alone",
    ]
    steps, decision = explain(blob, lib.PROTOCOL_HTTP, "x.test", None)
    assert lines(steps, decision, STAGES, RULES)[-1] == "refused: no row matches"
    steps, decision = explain(table([]), lib.PROTOCOL_HTTP, "x.test", None)
    assert lines(steps, decision, (), ()) == ["refused: no stage answers"]


def test_many_rows_for_one_host_are_all_shown():
    rows = tuple(Row("my.kv", number, number, 0, port=8000 + number) for number in range(100))
    steps, _ = explain(table([Plan(rows, Outcome.TARGET, Outcome.NEXT)], TARGETS), lib.PROTOCOL_HTTP, "my.kv", AT)
    assert [seen.port for seen in steps[0].rows] == list(range(8000, 8100))


@given(
    plans(),
    st.integers(0, lib.PROTOCOL_OPAQUE),
    CANONICAL,
    st.one_of(st.none(), st.tuples(ADDRESSES, st.sampled_from([22, 80]))),
)
def test_the_rows_shown_are_those_that_hold_and_the_one_that_matches_decided(plans, protocol, host, destination):
    steps, decision = explain(table(plans, TARGETS), protocol, f"[{host}]" if ":" in host else host, destination)
    for step in steps:
        rows = plans[step.stage].rows
        assert step.count == len(rows)
        assert {seen.rule for seen in step.rows} == {row.rule for row in rows if holds(row, host, destination)}
    last = steps[-1] if steps else None
    if last is not None and last.outcome is not Outcome.NEXT:
        matching = [seen.rule for seen in last.rows if not seen.fault]
        assert (matching or [lib.NO_RULE]) == [decision.rule]
    else:
        assert decision.stage == lib.NO_STAGE
