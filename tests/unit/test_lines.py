"""A record is one line, even if the container has put control characters in it."""

from __future__ import annotations

import dataclasses
import ipaddress
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyinterceptor.relay.records import Cause
from pyinterceptor.serving.lines import SHOWN, indented, line_of, shown, shown_host, shown_owner
from pyinterceptor.serving.records import REFUSALS, Owner, Reason, Refused, Verdict
from tests.unit.recorded import ONE, flow, name, refusal, request

HOSTILE = [
    "a.example\nSandbox/two request HANDLE GET http://bank.example/ 200",
    "a.example rule=forged",
    "\x1b[2J\x1b]0;title\x07",
    "\x9b31m",
    'quo"te',
    "back\\slash",
    "büro.example",
    "a\u202eb",
    "\ud800",
    "\x7f",
    "\x00",
    "\r",
    "-",
]


def test_each_record_is_one_line():
    assert line_of(flow()) == (
        "flow SPLICE TLS a.example 203.0.113.7:443 rule=- cause=DONE sent=517 received=2048 seconds=0.250"
    )
    assert line_of(request()) == "request HANDLE GET http://my.kv/a 200 rule=my.kv sent=70 received=120 seconds=0.002"
    assert line_of(refusal()) == "refused TLS a.example 203.0.113.7:443 rule=- reason=rule"
    assert line_of(refusal(refused=Refused.NAME)) == "refused name a.example A rule=- reason=rule"
    assert line_of(refusal(refused=Refused.REQUEST, reason=Reason.LOCAL)) == (
        'refused request a.example 203.0.113.7:443 GET http://a.example/ rule=- reason="local address"'
    )
    assert line_of(name()) == "name SPLICE a.example AAAA NOERROR rule=- seconds=0.030"
    assert shown_owner(ONE) == "Sandbox/one"


def test_a_refusal_has_one_line_and_not_another_for_its_flow_or_request():
    assert line_of(flow(verdict=Verdict.REFUSE)) is None
    assert line_of(request(verdict=Verdict.REFUSE)) is None
    for cause in REFUSALS:
        assert line_of(dataclasses.replace(flow(verdict=Verdict.REFUSE), cause=cause)) is None
        assert line_of(refusal(reason=REFUSALS[cause])) is not None


def test_a_flow_that_ends_for_another_cause_than_a_refusal_has_a_line():
    for cause in set(Cause) - {*REFUSALS, Cause.DONE, Cause.RESET}:
        assert f"cause={cause.name}" in line_of(dataclasses.replace(flow(verdict=Verdict.REFUSE), cause=cause))


def test_a_missing_value_is_a_dash():
    assert line_of(dataclasses.replace(flow(), host="")).split()[3] == "-"
    assert line_of(dataclasses.replace(request(), status=0)).split()[4] == "-"


def test_an_ipv6_address_stands_in_brackets():
    record = dataclasses.replace(flow(), destination=(ipaddress.IPv6Address("2001:db8::1"), 25))
    assert " [2001:db8::1]:25 " in line_of(record)


@pytest.mark.parametrize("host", ["a.example", "A.Example", "_dmarc.a", "203.0.113.7", "2001:db8::1", "xn--a-ma"])
def test_a_canonical_host_is_shown_as_it_is(host):
    assert shown_host(host) == host


@pytest.mark.parametrize("text", HOSTILE)
def test_text_that_is_not_plain_is_quoted_on_one_line_of_ascii(text):
    places = [
        shown_host(text),
        shown_owner(Owner("Sandbox", text, "0")).removeprefix("Sandbox/") if text != "-" else '"-"',
        line_of(flow(host=text)).split("TLS ")[1].split(" 203")[0],
    ]
    for place in places:
        assert place[0] == place[-1] == '"'
        assert '"' not in place[1:-1].replace('\\"', "")
        assert place.isascii()
        assert place.isprintable()


def test_quotes_and_escapes_can_be_read_back():
    assert shown('a "b"\n\\') == r'"a \"b\"\n\\"'
    assert shown("\x1bé") == r'"\x1b\xe9"'


def test_a_long_text_is_cut():
    assert len(shown("a" * 100_000)) == SHOWN + 3
    assert len(line_of(request(url="http://a.example/" + "\n" * 100_000))) < 3 * SHOWN


@given(st.text(), st.text(), st.text())
def test_no_text_makes_a_second_line_or_field(host, url, owner):
    for record in (flow(host=host), request(url=url), refusal(host=host), name(host=host)):
        line = line_of(record)
        assert line.isprintable()
        words = re.sub(r'"([^"\\]|\\.)*"…?', "QUOTED", line)
        assert words.count(" rule=") == 1
        assert '"' not in words
    assert shown_owner(Owner("Sandbox", owner, "0")).isprintable()


def test_a_text_of_several_lines_is_indented_and_escaped():
    assert indented("first\nforged\x1b[2J\u202e\nbüro\t") == "first\n  forged\\x1b[2J\\u202e\n  büro\\t"
