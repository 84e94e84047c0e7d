"""The one matcher, called from Python: its decisions, and the addresses that may be dialled."""

import ipaddress

import pytest
from pyinterceptor._relay import ffi, lib

from pyinterceptor.errors import PolicyError
from pyinterceptor.policy.addresses import packed
from pyinterceptor.policy.rules import Rules
from pyinterceptor.policy.table import compile, decide, decide_name
from tests.unit.cost import seconds

ELSEWHERE = (ipaddress.ip_address("203.0.113.9"), 80)


def table(hosts=(), catch_all=None, internet=True, local=()):
    return compile(Rules({host: rule for rule, host in enumerate(hosts)}, catch_all, internet, tuple(local)), 7)


@pytest.mark.parametrize(
    ("host", "rule"),
    [
        ("my.kv", 0),
        ("MY.KV", 0),
        ("my.kv.", 0),
        ("my.kv:8080", 0),
        ("a.my.kv", 1),
        ("a.b.my.kv", 1),
        ("x.kv", 2),
        ("203.0.113.7", 3),
        ("203.0.113.7:80", 3),
        ("[2001:db8:0::1]", 4),
        ("[2001:DB8::1]:80", 4),
        ("[::ffff:203.0.113.7]", 3),
        ("xn--bcher-kva.example", 5),
        ("other.example", 9),
        ("my.kv..", 9),
        ("", 9),
    ],
)
def test_exact_before_glob_before_catch_all(host, rule):
    hosts = ["my.kv", "*.my.kv", "*.kv", "203.0.113.7", "2001:db8::1", "Bücher.example."]
    decision = decide(table(hosts, catch_all=9), lib.PROTOCOL_HTTP, host, ELSEWHERE)
    assert (decision.verdict, decision.rule, decision.generation) == (lib.VERDICT_HANDLE, rule, 7)


def test_an_address_rule_decides_under_any_host():
    rules = table(["203.0.113.7"], catch_all=9)
    destination = (ipaddress.ip_address("203.0.113.7"), 80)
    assert decide(rules, lib.PROTOCOL_HTTP, "other.example", destination).rule == 0
    assert decide(rules, lib.PROTOCOL_HTTP, "other.example", ELSEWHERE).rule == 9


@pytest.mark.parametrize(
    ("protocol", "port", "internet", "verdict"),
    [
        (lib.PROTOCOL_HTTP, 80, False, lib.VERDICT_HANDLE),
        (lib.PROTOCOL_TLS, 443, True, lib.VERDICT_REFUSE),
        (lib.PROTOCOL_HTTP2, 80, True, lib.VERDICT_REFUSE),
        (lib.PROTOCOL_OPAQUE, 80, True, lib.VERDICT_REFUSE),
        (lib.PROTOCOL_OPAQUE, 443, True, lib.VERDICT_REFUSE),
        (lib.PROTOCOL_OPAQUE, 22, True, lib.VERDICT_REFUSE),
        (lib.PROTOCOL_NONE, 80, True, lib.VERDICT_REFUSE),
        (lib.PROTOCOL_NONE, 443, True, lib.VERDICT_REFUSE),
        (lib.PROTOCOL_NONE, 22, True, lib.VERDICT_SPLICE),
        (lib.PROTOCOL_NONE, 22, False, lib.VERDICT_REFUSE),
    ],
)
def test_no_protocol_walks_round_a_handler(protocol, port, internet, verdict):
    destination = (ELSEWHERE[0], port)
    assert decide(table(["my.kv"], internet=internet), protocol, "my.kv", destination).verdict == verdict
    assert decide(table(catch_all=0, internet=internet), protocol, "my.kv", destination).verdict == verdict


@pytest.mark.parametrize(("internet", "verdict"), [(True, lib.VERDICT_SPLICE), (False, lib.VERDICT_REFUSE)])
def test_traffic_without_a_rule_depends_on_enable_internet(internet, verdict):
    for protocol in (lib.PROTOCOL_HTTP, lib.PROTOCOL_TLS, lib.PROTOCOL_OPAQUE):
        assert decide(table(["my.kv"], internet=internet), protocol, "other.example", ELSEWHERE).verdict == verdict


def test_a_hostile_glob_takes_no_time():
    decision = decide(table(["*a*a*a*a*a*a*a*a*b"]), lib.PROTOCOL_HTTP, "a" * 255, ELSEWHERE)
    assert decision.rule == lib.NO_RULE


def test_globs_with_a_star_at_one_end_are_found_without_trying_each():
    def cost(count: int) -> float:
        globs = [f"*.s{number}.example" for number in range(count)] + [f"p{number}.*" for number in range(count)]
        rules = table(globs)

        def work() -> None:
            for host in ("a.missing.example", "p.missing", "a.s1.example", "p1.missing") * 100:
                decide(rules, lib.PROTOCOL_HTTP, host, ELSEWHERE)

        return seconds(work)

    assert decide(table(["*.s1.example", "p1.*"]), lib.PROTOCOL_HTTP, "p1.missing", ELSEWHERE).rule == 1
    assert cost(5000) < 3 * cost(5)


@pytest.mark.parametrize(
    "host", ["", "my.kv:", "http://my.kv", "a..b", "-a", "a b", "10.0.0.1/8", "x" * 300, "é\u2024.x"]
)
def test_a_pattern_that_is_no_host_is_refused(host):
    with pytest.raises(PolicyError):
        table([host])


def test_one_host_twice_is_refused():
    with pytest.raises(PolicyError, match="two rules"):
        table(["my.kv", "MY.kv."])


@pytest.mark.parametrize("text", ["", "10.0.0.1/8", "10.0.0.0/33", "127.0.0.1:0", "127.0.0.1:x", "[::1", "name:80"])
def test_a_local_network_that_is_none_is_refused(text):
    with pytest.raises(PolicyError):
        table(local=[text])


def may_dial(address, port=80, local=()):
    endpoint = ffi.new("struct endpoint *")
    endpoint.address, endpoint.port = packed(ipaddress.ip_address(address)), port
    return not lib.guard_is_local(endpoint.address) or bool(
        lib.guard_names(ffi.from_buffer(table(local=local)), endpoint)
    )


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0", "0.1.2.3", "127.0.0.1", "127.9.9.9", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1"]
    + ["169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1", "198.18.0.1", "192.0.0.8"]
    + ["::", "::1", "fe80::1", "fc00::1", "fd70:7969:6e74::1", "ff02::1", "fec0::1", "100::1"]
    + ["::ffff:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::1", "2002:a00:1::", "::127.0.0.1"]
    + ["::ffff:0:127.0.0.1", "64:ff9b:1::7f00:1", "64:ff9b:1:a00:0:100:808:808", "2001::1", "2001:2::1"]
    + ["5f00::1", "192.88.99.1"],
)
def test_local_addresses_are_guarded_in_all_their_forms(address):
    assert not may_dial(address)
    assert may_dial(address, local=["0.0.0.0/0", "::/0"])


@pytest.mark.parametrize(
    "address", ["203.0.113.7", "198.51.100.1", "8.8.8.8", "172.32.0.1", "2001:db8::1", "64:ff9b::cb00:7107"]
)
def test_public_and_documentation_addresses_may_be_dialled(address):
    assert may_dial(address)


def test_a_named_service_opens_its_port_alone():
    assert may_dial("127.0.0.1", 5432, local=["127.0.0.1:5432"])
    assert not may_dial("127.0.0.1", 5433, local=["127.0.0.1:5432"])
    assert may_dial("10.1.255.1", local=["10.1.0.0/16"])
    assert not may_dial("10.2.0.1", local=["10.1.0.0/16"])
    assert may_dial("::1", 80, local=["[::1]:80"])


def test_a_table_with_a_wrong_size_is_refused():
    blob = bytearray(table(["my.kv", "*.x"], local=["10.0.0.0/8"]))
    assert lib.policy_check(ffi.from_buffer(blob), len(blob))
    assert not lib.policy_check(ffi.from_buffer(blob), len(blob) - 1)
    for field in ("stages", "targets", "waits"):
        assert is_refused(blob, 0, "struct policy_header", field)
    header = ffi.from_buffer("struct policy_header *", blob)
    for rows in (header.locals, ffi.from_buffer("struct policy_stage *", blob[header.stages.offset :]).rows):
        for field in ("names", "suffixes", "prefixes", "globs", "networks", "all"):
            assert is_refused(blob, rows, "struct policy_rows", field)


def is_refused(blob, at, struct, field):
    """Whether the table is refused with another count, and with another offset, of one of its arrays."""
    for lie in ("count", "offset"):
        broken = bytearray(blob)
        array = getattr(ffi.from_buffer(f"{struct} *", memoryview(broken)[at:]), field)
        setattr(array, lie, 0xFFFFFFF0)
        if lib.policy_check(ffi.from_buffer(broken), len(broken)):
            return False
    return True


def test_globs_are_tried_in_the_order_they_are_declared():
    for first, second in (("*.kv", "*.my.kv"), ("*.my.kv", "*.kv"), ("a*", "*.kv"), ("*y.*", "a.my.*")):
        rules = table([first, second])
        assert decide(rules, lib.PROTOCOL_HTTP, "a.my.kv", ELSEWHERE).rule == 0


@pytest.mark.parametrize(
    "form",
    ["203.0.113.5", "::ffff:203.0.113.5", "64:ff9b::cb00:7105", "2002:cb00:7105::1", "::203.0.113.5"]
    + ["::ffff:0:203.0.113.5"],
)
def test_a_rule_for_an_address_holds_in_every_form_that_hides_it(form):
    rules = table(["203.0.113.5"])
    destination = (ipaddress.ip_address(form), 80)
    for host in ("", "other.example", f"[{form}]" if ":" in form else form):
        assert decide(rules, lib.PROTOCOL_HTTP, host, destination).rule == 0
    assert decide(rules, lib.PROTOCOL_HTTP, f"[{form}]" if ":" in form else form, ELSEWHERE).rule == 0
    assert decide(rules, lib.PROTOCOL_HTTP, "other.example", ELSEWHERE).rule == lib.NO_RULE


def test_a_rule_for_the_unspecified_address_catches_no_name():
    rules = table(["0.0.0.0"], internet=True)
    assert decide_name(rules, "www.example.test") == lib.VERDICT_SPLICE
    assert decide_name(table(["www.example.test"]), "www.example.test") == lib.VERDICT_HANDLE
    assert decide_name(table(internet=False), "www.example.test") == lib.VERDICT_REFUSE
