"""Patterns: how they are read, and which of several that match answers."""

from __future__ import annotations

import ipaddress

import pytest
from pyinterceptor._relay import lib

from pyinterceptor.errors import PolicyError
from pyinterceptor.policy.addresses import network_of
from pyinterceptor.policy.patterns import Pattern, canonical_pattern, pattern, ranked
from pyinterceptor.policy.pieces import at_once
from pyinterceptor.policy.rules import Rules
from pyinterceptor.policy.table import compile, decide

ADDRESS = ipaddress.ip_address("203.0.113.7")


def net(text: str) -> object:
    return network_of(ipaddress.ip_network(text))


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("My.KV.", Pattern("my.kv", 0)),
        ("my.kv:8080", Pattern("my.kv", 8080)),
        ("*.example:443", Pattern("*.example", 443)),
        ("203.0.113.7", Pattern(net("203.0.113.7/32"), 0)),
        ("203.0.113.7:25", Pattern(net("203.0.113.7/32"), 25)),
        ("203.0.113.0/24", Pattern(net("203.0.113.0/24"), 0)),
        ("203.0.113.0/24:25", Pattern(net("203.0.113.0/24"), 25)),
        ("2001:db8::1", Pattern(net("2001:db8::1/128"), 0)),
        ("[2001:db8::1]", Pattern(net("2001:db8::1/128"), 0)),
        ("[2001:db8::1]:443", Pattern(net("2001:db8::1/128"), 443)),
        ("2001:db8::/32", Pattern(net("2001:db8::/32"), 0)),
        ("[2001:db8::/32]:443", Pattern(net("2001:db8::/32"), 443)),
    ],
)
def test_a_pattern_is_read(text: str, read: Pattern) -> None:
    assert pattern(text) == read


@pytest.mark.parametrize(
    "text",
    [
        *("my.kv:", "my.kv:0", "my.kv:65536", "my.kv:x", ":80", "[my.kv]:80", "[203.0.113.7]:80", "[2001:db8::1]80"),
        *("203.0.113.7/24", "203.0.113.0/33", "my.kv/24", "https://my.kv", "2001:db8::1/32", "a b"),
    ],
)
def test_a_malformed_pattern_is_refused_by_its_text(text: str) -> None:
    with pytest.raises(PolicyError, match="^host"):
        pattern(text)


@pytest.mark.parametrize(
    ("texts", "form"),
    [
        (["My.KV.:80", "my.kv:80"], "my.kv:80"),
        (["[2001:DB8:0::1]", "2001:db8::1"], "2001:db8::1"),
        (["[2001:DB8::/32]:443", "[2001:db8:0::/32]:443"], "[2001:db8::/32]:443"),
        (["203.0.113.0/24:25", "203.0.113.0/255.255.255.0:25"], "203.0.113.0/24:25"),
        (["*.Example"], "*.example"),
    ],
)
def test_a_pattern_has_one_form_that_reads_as_itself(texts: list[str], form: str) -> None:
    assert {canonical_pattern(text) for text in texts} == {form}
    assert canonical_pattern(form) == form


def test_two_equal_patterns_are_refused() -> None:
    with pytest.raises(PolicyError, match=r"two rules are for 'MY\.kv:80'"):
        at_once(ranked({"my.kv:80": 0, "my.kv": 1, "MY.kv:80": 2}))


def test_a_port_precedes_none_an_address_a_network_and_the_longest_network_the_others() -> None:
    patterns = [
        *("*.kv", "b.*", "203.0.0.0/8", "203.0.113.0/24", "203.0.113.0/24:80", "203.0.113.7", "203.0.113.7:80"),
        *("a.kv", "a.kv:80"),
    ]
    order = [rule for _, rule in at_once(ranked({text: text for text in patterns}))]
    assert order == [
        *("a.kv:80", "a.kv", "203.0.113.7:80", "203.0.113.7", "203.0.113.0/24:80", "203.0.113.0/24", "203.0.0.0/8"),
        *("*.kv", "b.*"),
    ]


@pytest.mark.parametrize(
    ("host", "port", "rule"),
    [
        ("a.kv", 80, "a.kv:80"),
        ("a.kv:9", 80, "a.kv:80"),  # the port that is dialled counts
        ("a.kv", 81, "a.kv"),
        ("b.kv", 80, "203.0.113.0/24:80"),
        ("b.kv", 81, "203.0.0.0/8"),
    ],
)
def test_the_first_pattern_that_matches_host_and_port_answers(host: str, port: int, rule: str) -> None:
    patterns = ["*.kv", "203.0.0.0/8", "203.0.113.0/24:80", "a.kv", "a.kv:80"]
    table = compile(Rules({text: number for number, text in enumerate(patterns)}, None, True), 1)
    assert patterns[decide(table, lib.PROTOCOL_HTTP, host, (ADDRESS, port)).rule] == rule
