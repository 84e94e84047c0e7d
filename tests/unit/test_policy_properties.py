"""The matcher against its description, on inputs of Hypothesis: canonical hosts, globs, order, networks."""

import ipaddress
import re
from contextlib import suppress

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from pyinterceptor._relay import ffi, lib

from pyinterceptor.errors import PolicyError
from pyinterceptor.policy import hosts
from pyinterceptor.policy.addresses import network, packed, unpacked
from pyinterceptor.policy.patterns import pattern
from pyinterceptor.policy.rules import Rules
from pyinterceptor.policy.table import compile, decide

NOWHERE = None
SOMEWHERE = ipaddress.IPv4Address("192.0.2.77")
LABEL = st.from_regex(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,8}[A-Za-z0-9_])?", fullmatch=True)
NAMES = st.lists(LABEL, min_size=1, max_size=5).map(".".join)
V4 = st.ip_addresses(v=4)
V6 = st.one_of(
    st.ip_addresses(v=6),
    st.integers(0, 2**33).map(ipaddress.IPv6Address),  # v4-compatible ones, and others near them
    V4.map(lambda v4: ipaddress.IPv6Address(f"::ffff:{v4}")),
    st.lists(st.sampled_from([0, 0, 0, 1, 0xFFFF]), min_size=8, max_size=8).map(
        lambda words: ipaddress.IPv6Address(int.from_bytes(b"".join(word.to_bytes(2, "big") for word in words), "big"))
    ),
)
ADDRESSES = st.one_of(V4, V6)
SPELLINGS = st.one_of(
    NAMES,
    NAMES.map(lambda name: name + "."),
    V4.map(str),
    V6.map(str),
    V6.map(lambda v6: v6.exploded.upper()),
    V6.map(lambda v6: f"[{v6}]"),
    st.text("0123456789abcdefABCDEFx.:[]%*-_", max_size=20),
    st.text(max_size=8),
)


def c_canonical(host: str) -> str | None:
    out = ffi.new("char[]", lib.HOST_MAX + 1)
    raw = host.encode()
    length = lib.host_canonical(raw, len(raw), out)
    return ffi.string(out).decode() if length else None


def py_canonical(host: str) -> str | None:
    try:
        return hosts.canonical(host)
    except PolicyError:
        return None


@given(SPELLINGS)
@example("::1.2.3.4")
@example("::ffff:1.2.3.4")
@example("[::1")
@example("01.2.3.4")
@example("1.2.3.4.")
@example("A" * 255 + ".")
def test_python_and_c_have_one_canonical_form(host):
    ours, theirs = py_canonical(host), c_canonical(host)
    assume(ours is not None and theirs is not None)
    assert ours == theirs


@given(SPELLINGS)
@example("::1.2.3.4")
@example("fe80::1%eth0")
@example("[[::1]]")
@example("[1.2.3.4")
def test_c_matches_every_valid_pattern_and_its_canonical_form_is_stable(host):
    canonical = py_canonical(host)
    assume(canonical is not None and "*" not in canonical)
    assert canonical == hosts.canonical(canonical) == c_canonical(canonical)
    assert decide(compile(Rules({host: 5}, None, False), 1), lib.PROTOCOL_HTTP, canonical, NOWHERE).rule == 5


@given(ADDRESSES)
def test_a_rule_for_an_address_matches_it_as_host_and_as_destination(address):
    table = compile(Rules({str(address): 5}, None, False), 1)
    literal = f"[{address}]:80" if address.version == 6 else f"{address}:80"
    assert decide(table, lib.PROTOCOL_HTTP, literal, NOWHERE).rule == 5
    assert decide(table, lib.PROTOCOL_HTTP, "other.test", (address, 80)).rule == 5
    elsewhere = ipaddress.ip_address("192.0.2.1")
    if elsewhere.packed in address.packed:  # also in a form that hides it
        elsewhere = ipaddress.ip_address("192.0.2.2")
    assert decide(table, lib.PROTOCOL_HTTP, "other.test", (elsewhere, 80)).rule == lib.NO_RULE


GLOB_LABEL = st.text("ab*", min_size=1, max_size=4)
GLOBS = st.lists(GLOB_LABEL, min_size=1, max_size=4).map(".".join)
SMALL_HOSTS = st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=4).map(".".join)


def glob_matches(glob: str, host: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, glob.split("*"))), host) is not None


@given(GLOBS, SMALL_HOSTS)
def test_a_star_stands_for_any_run_of_characters(glob, host):
    rule = decide(compile(Rules({glob: 5}, None, False), 1), lib.PROTOCOL_HTTP, host, NOWHERE).rule
    assert (rule == 5) is glob_matches(glob, host)


@given(
    patterns=st.lists(st.one_of(GLOBS, SMALL_HOSTS), max_size=6, unique=True),
    catch_all=st.booleans(),
    internet=st.booleans(),
    protocol=st.sampled_from(["NONE", "HTTP", "TLS", "HTTP2", "OPAQUE"]),
    host=SMALL_HOSTS,
    port=st.sampled_from([22, 80]),
)
def test_exact_then_the_first_glob_then_the_catch_all_then_the_internet(
    patterns, catch_all, internet, protocol, host, port
):
    rules = Rules({pattern: rule for rule, pattern in enumerate(patterns)}, 99 if catch_all else None, internet)
    made = decide(compile(rules, 3), getattr(lib, f"PROTOCOL_{protocol}"), host, (SOMEWHERE, port))
    assert (made.verdict, made.rule, made.generation) == (*expected(rules, protocol, host, port), 3)


def expected(rules: Rules, protocol: str, host: str, port: int) -> tuple[int, int]:
    """Returns verdict and rule by the description in cext/policy.h."""
    globs = [pattern for pattern in rules.hosts if "*" in pattern and glob_matches(pattern, host)]
    rule = rules.hosts.get(host, rules.hosts[globs[0]] if globs else rules.catch_all)
    if protocol == "NONE" and port == 22:
        rule = None
    if rule is None:
        return (lib.VERDICT_SPLICE if rules.internet else lib.VERDICT_REFUSE), lib.NO_RULE
    return (lib.VERDICT_HANDLE if protocol == "HTTP" else lib.VERDICT_REFUSE), rule


@given(st.lists(NAMES.map(str.lower), unique=True, max_size=60), NAMES)
def test_every_exact_host_is_found_among_many(names, other):
    table = compile(Rules({name: rule for rule, name in enumerate(names)}, None, False), 1)
    assert lib.policy_check(ffi.from_buffer(table), len(table))
    for rule, name in enumerate(names):
        assert decide(table, lib.PROTOCOL_HTTP, name, NOWHERE).rule == rule
    assume(other.lower() not in names)
    assert decide(table, lib.PROTOCOL_HTTP, other, NOWHERE).rule == lib.NO_RULE


@given(ADDRESSES)
def test_an_address_survives_its_16_bytes(address):
    mapped = address.ipv4_mapped if address.version == 6 else None
    assert unpacked(packed(address)) == (mapped or address)
    assert len(packed(address)) == 16


@given(st.data(), ADDRESSES, ADDRESSES, st.sampled_from([0, 80]))
def test_a_named_network_holds_the_same_addresses_as_in_ipaddress(data, inside, other, port):
    bits = data.draw(st.integers(0, inside.max_prefixlen))
    named = ipaddress.ip_network((inside, bits), strict=False)
    assume(not port or named.num_addresses == 1)
    text = str(named) if not port else f"[{inside}]:80" if inside.version == 6 else f"{inside}:80"
    table = compile(Rules({}, None, True, (text,)), 1)
    for address in (inside, other):
        for at in (80, 81):
            endpoint = ffi.new("struct endpoint *", (packed(address), at, 0))
            holds = unpacked(packed(address)) in meant(named) and port in (0, at)
            assert bool(lib.guard_names(ffi.from_buffer(table), endpoint)) is holds


def meant(named):
    """Returns the network; a network of v4-mapped addresses becomes one of v4."""
    first = named.network_address
    if first.version == 6 and first.ipv4_mapped and named.prefixlen >= 96:
        return ipaddress.ip_network((first.ipv4_mapped, named.prefixlen - 96))
    return named


@given(st.text("0123456789abcdef.:/[]%x", max_size=24))
def test_no_text_breaks_the_reader_of_networks(text):
    with suppress(PolicyError):
        named, port = network(text)
        assert (len(named.address), 0 <= named.prefix <= 128, 0 <= port < 65536) == (16, True, True)


@pytest.mark.parametrize("text", ["fe80::1%eth0", "[::1", "::1]", "[[::1]]", "[1.2.3.4", "[my.kv]", "1.2.3.4]"])
def test_a_rule_for_a_host_that_c_could_never_see_is_refused(text):
    with pytest.raises(PolicyError):
        pattern(text)
