"""The line that `run` ends with."""

from __future__ import annotations

from pyinterceptor.cli.refusals import KEPT, Tally
from pyinterceptor.serving.records import Reason, Refused
from tests.unit.recorded import refusal


def line(*refusals, dropped: int = 0) -> str | None:
    tally = Tally()
    for one in refusals:
        tally.add(one)
    tally.dropped = dropped
    return tally.line()


def test_without_refusals_there_is_no_line():
    assert line() is None


def test_a_name_that_was_asked_for_twice_is_one_name():
    name = refusal(host="registry.example", refused=Refused.NAME)
    assert line(name, name) == "refused: 1 name (registry.example)"


def test_kinds_are_counted_apart_names_first():
    refusals = [
        refusal(host="example.org"),
        refusal(host="a.example", refused=Refused.NAME),
        refusal(host="b.example", refused=Refused.NAME),
        refusal(host="c.example", refused=Refused.REQUEST),
        refusal(host="c.example", refused=Refused.REQUEST),
        refusal(host="", refused=Refused.FLOW),
        refusal(host="", refused=Refused.FLOW, reason=Reason.LOCAL),
        refusal(host="d.example", refused=Refused.REQUEST, reason=Reason.BUDGET),
    ]
    assert line(*refusals) == (
        "refused: 2 names (a.example, b.example), 2 requests to c.example, 1 TLS to example.org,"
        " 1 connection to 203.0.113.7:443, 1 local address (203.0.113.7:443), 1 over budget to d.example"
    )


def test_the_most_frequent_hosts_are_shown_and_the_others_are_dots():
    hosts = ["a.example"] * 2 + ["b.example"] + ["c.example"] * 3 + ["d.example"]
    assert line(*(refusal(host=host) for host in hosts)) == (
        "refused: 7 TLS (c.example, a.example, b.example, …)"
    )


def test_a_hostile_name_is_quoted():
    assert line(refusal(host="a\n\x1b[2J")) == r'refused: 1 TLS to "a\n\x1b[2J"'


def test_however_many_names_are_refused_all_are_counted_and_few_are_kept():
    tally = Tally()
    for number in range(3 * KEPT):
        tally.add(refusal(host=f"{number}.example"))
    assert tally.line().startswith(f"refused: {3 * KEPT} TLS (")
    assert len(tally._hosts[2]) == KEPT


def test_refusals_that_came_too_fast_are_counted():
    assert line(refusal(), dropped=5) == "refused: 1 TLS to a.example, 5 more"
    assert line(dropped=5) == "refused: 5 more"
