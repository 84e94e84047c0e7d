"""The next state of a flow after its client's first bytes: pure C, fed whole, byte by byte, and with a tail."""

from __future__ import annotations

import ipaddress
import ssl
from typing import Any

import pytest
from pyinterceptor._relay import ffi, lib

from pyinterceptor.policy.addresses import packed
from pyinterceptor.policy.layout import resolved
from pyinterceptor.policy.rules import Rules
from pyinterceptor.policy.table import compile

OPEN = compile(Rules({}, None, internet=True), 1)
CLOSED = compile(Rules({}, None, internet=False), 1)
RULED = compile(Rules({"my.kv": 7}, None, internet=True), 1)
ELSEWHERE = resolved(RULED, [packed(ipaddress.ip_address(text)) for text in ("203.0.113.9", "2001:db8::9")])
ADDRESSED = compile(Rules({"203.0.113.9": 3}, None, internet=True), 1)

PLAIN = b"GET /a HTTP/1.1\r\nHost: a.test\r\n\r\n"
ASK = b"GET /a HTTP/1.1\r\nHost: my.kv\r\n\r\n"
OLD = b"GET /a HTTP/1.0\r\nHost: a.test\r\n\r\n"
BAD = b"GET /a HTTP/1.1\r\nHost : a.test\r\n\r\n"
SSH = b"SSH-2.0-x\r\n"
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Opening:
    """A flow's opening to 203.0.113.1:8080, or to a synthetic address of `name`."""

    def __init__(self, table: bytes, *, name: str = "", to: str = "203.0.113.1", **state: Any) -> None:
        self.table = table
        self.subject = ffi.new("struct subject *")
        self.subject.to.address = packed(ipaddress.ip_address(to))
        self.subject.to.port = 8080
        self._name = ffi.new("char[]", name.encode())
        if name:
            self.subject.name, self.subject.is_synthetic = self._name, 1
        self.look = ffi.new("struct first_bytes *", state)
        self.options = ffi.new("struct relay_options *", {"opening_deadline": 10.0, "sniff_wait": 0.5})
        self._so_far = ffi.new("struct sniffing *")

    def judge(self, data: bytes) -> int:
        held = ffi.from_buffer(data)
        self.look.bytes, self.look.length = held, len(data)
        try:
            return int(lib.judge(self.subject, self._so_far, self.table, self.options, self.look))
        finally:
            self.subject.name = ffi.NULL
            host = self.subject.host
            self.host = ffi.string(host).decode() if host else ""
            lib.subject_free(self.subject)
            self.subject.name = self._name if self.subject.is_synthetic else ffi.NULL


VERDICTS = [
    (PLAIN, OPEN, lib.JUDGED_FOLLOW),
    (PLAIN, RULED, lib.JUDGED_FOLLOW),
    (PLAIN, CLOSED, lib.JUDGED_SERVE),
    (ASK, RULED, lib.JUDGED_SERVE),
    (OLD, OPEN, lib.JUDGED_UNFRAMED),
    (OLD, RULED, lib.JUDGED_SERVE),
    (BAD, OPEN, lib.JUDGED_UNFRAMED),
    (BAD, RULED, lib.JUDGED_SERVE),
    (SSH, OPEN, lib.JUDGED_SPLICE),
    (SSH, RULED, lib.JUDGED_KEEP),
    (SSH, ELSEWHERE, lib.JUDGED_SPLICE),
    (SSH, CLOSED, lib.JUDGED_REFUSE),
    (HTTP2, OPEN, lib.JUDGED_SPLICE),
    (HTTP2, RULED, lib.JUDGED_REFUSE),
]


@pytest.mark.parametrize(("data", "table", "expected"), VERDICTS)
def test_an_opening_is_judged_alike_whole_and_with_a_tail(data: bytes, table: bytes, expected: int) -> None:
    assert Opening(table).judge(data) == expected
    assert Opening(table).judge(data + b"tail") == expected


@pytest.mark.parametrize(("data", "table", "expected"), VERDICTS)
def test_an_opening_byte_by_byte_waits_and_is_judged_as_when_whole(data: bytes, table: bytes, expected: int) -> None:
    opening = Opening(table)
    found = [opening.judge(data[:end]) for end in range(1, len(data) + 1)]
    decided = [judged for judged in found if judged != lib.JUDGED_MORE]
    assert found[: found.index(decided[0])] == [lib.JUDGED_MORE] * found.index(decided[0])
    assert decided[-1] == expected


def test_the_first_request_of_a_followed_flow_is_framed() -> None:
    opening = Opening(OPEN)
    body = b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\n"
    assert opening.judge(body + b"hello") == lib.JUDGED_FOLLOW
    assert (opening.look.first.head_length, opening.look.first.body_length) == (len(body), 5)
    assert opening.host == "a.test"


def test_another_host_at_a_ruled_name_s_synthetic_address_is_decided_by_that_name_too() -> None:
    assert Opening(RULED, name="my.kv").judge(PLAIN) == lib.JUDGED_SERVE
    assert Opening(RULED, name="free.test").judge(PLAIN) == lib.JUDGED_FOLLOW


def test_a_connected_address_with_a_rule_of_its_own_decides_instead() -> None:
    opening = Opening(ADDRESSED)
    opening.subject.reached.address = packed(ipaddress.IPv4Address("203.0.113.9"))
    opening.subject.reached.port = 8080
    assert opening.judge(PLAIN) == lib.JUDGED_SERVE
    assert Opening(ADDRESSED).judge(PLAIN) == lib.JUDGED_FOLLOW


def test_opaque_bytes_to_a_ruled_host_are_kept_until_its_server_has_spoken_or_the_deadline_is_over() -> None:
    first = b"\0hello"
    assert Opening(RULED, name="my.kv").judge(first) == lib.JUDGED_KEEP
    assert Opening(RULED, name="my.kv", has_greeted=1).judge(first) == lib.JUDGED_SPLICE
    assert Opening(RULED, name="my.kv", waited=10.0).judge(first) == lib.JUDGED_REFUSE
    assert Opening(RULED, name="my.kv", is_unreachable=1).judge(first) == lib.JUDGED_REFUSE


def test_an_incomplete_opening_waits_longer_where_a_rule_could_matter() -> None:
    assert Opening(OPEN, waited=0.4).judge(b"GE") == lib.JUDGED_MORE
    assert Opening(OPEN, waited=0.5).judge(b"GE") == lib.JUDGED_SPLICE
    assert Opening(RULED, waited=9.9).judge(b"GE") == lib.JUDGED_MORE
    assert Opening(RULED, waited=10.0).judge(b"GE") == lib.JUDGED_LATE
    assert Opening(RULED, is_end=1).judge(b"GE") == lib.JUDGED_KEEP
    assert Opening(ELSEWHERE, is_end=1).judge(b"GE") == lib.JUDGED_SPLICE


def test_http_after_the_server_has_spoken_is_not_followed() -> None:
    assert Opening(OPEN, has_greeted=1).judge(PLAIN) == lib.JUDGED_UNFRAMED
    assert Opening(RULED, has_greeted=1).judge(PLAIN) == lib.JUDGED_SERVE


DOUBTFUL = [
    OLD,
    BAD,
    HTTP2,
    b"GET /a HTTP/1.1\r\nHost: a.test\r\nX: " + b"x" * 17_000,
    b"GET /a HTTP/1.1\r\nHost: a.test\r\n" + b"X: x\r\n" * 200 + b"\r\n",
    b"GET /\xc3\xa4 HTTP/1.1\r\nHost: a.test\r\n\r\n",
    b"\r\nGET /a HTTP/1.1\r\nHost: a.test\r\n\r\n",
    b"GET /a HTTP/1.1\r\nHost:\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: x-unknown\r\n\r\n",
    b"get /key\r\n",
    b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n",
    b"CONNECT 203.0.113.1:443 HTTP/1.1\r\nHost: 203.0.113.1:443\r\n\r\n",
]


@pytest.mark.parametrize("first", DOUBTFUL)
def test_doubt_is_refused_only_where_it_could_reach_a_host_with_a_rule(first: bytes) -> None:
    passes, refuses = (lib.JUDGED_UNFRAMED, lib.JUDGED_SPLICE), (lib.JUDGED_SERVE, lib.JUDGED_REFUSE)
    for to in ("203.0.113.1", "2001:db8::1"):
        assert Opening(ELSEWHERE, to=to).judge(first) in passes
    for to in ("203.0.113.9", "2001:db8::9", "64:ff9b::203.0.113.9"):
        assert Opening(ELSEWHERE, to=to).judge(first) in refuses
    assert Opening(ELSEWHERE, name="my.kv").judge(first) in refuses
    assert Opening(ELSEWHERE, name="free.test").judge(first) in passes
    assert Opening(resolved(ADDRESSED, [])).judge(first) in passes
    assert Opening(resolved(ADDRESSED, []), to="203.0.113.9").judge(first) in refuses
    assert Opening(resolved(compile(Rules({}, 0, internet=True), 1), [])).judge(first) in refuses
    assert Opening(RULED).judge(first) in refuses  # the addresses aren't known yet
    reached = Opening(ELSEWHERE)
    reached.subject.reached.address, reached.subject.reached.port = packed(ipaddress.IPv4Address("203.0.113.9")), 8080
    assert reached.judge(first) in refuses


@pytest.mark.parametrize(
    "first",
    [
        b"CONNECT my.kv:443 HTTP/1.1\r\nHost: my.kv:443\r\n\r\n",
        b"CONNECT my.kv:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n",
        b"CONNECT 203.0.113.9:443 HTTP/1.1\r\nHost: 203.0.113.9:443\r\n\r\n",
        b"CONNECT [2001:db8::9]:443 HTTP/1.1\r\nHost: [2001:db8::9]:443\r\n\r\n",
        b"GET http://my.kv/ HTTP/1.1\r\nHost: my.kv\r\n\r\n",
        b"GET http://my.kv/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"\r\nGET http://my.kv/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
    ],
)
def test_a_proxy_is_not_asked_for_a_host_with_a_rule(first: bytes) -> None:
    assert Opening(ELSEWHERE).judge(first) == lib.JUDGED_SERVE


def test_an_absolute_form_is_followed() -> None:
    for target in (b"http://a.test/", b"http://a.test:80/"):
        assert Opening(ELSEWHERE).judge(b"GET " + target + b" HTTP/1.1\r\nHost: a.test\r\n\r\n") == lib.JUDGED_FOLLOW


def test_a_flow_in_doubt_does_not_go_to_a_ruled_address_of_its_name() -> None:
    ruled = ffi.new("struct endpoint *", (packed(ipaddress.IPv4Address("203.0.113.9")), 8080))
    other = ffi.new("struct endpoint *", (packed(ipaddress.IPv4Address("203.0.113.8")), 8080))
    for first, is_in_doubt in ((OLD, True), (PLAIN, False)):
        opening = Opening(ELSEWHERE)
        opening.judge(first)
        assert bool(lib.subject_agrees(opening.subject, ELSEWHERE, other))
        assert bool(lib.subject_agrees(opening.subject, ELSEWHERE, ruled)) is not is_in_doubt


def test_an_incomplete_opening_elsewhere_waits_as_without_rules_and_an_http_head_for_its_host() -> None:
    assert Opening(ELSEWHERE, waited=0.5).judge(b"GE") == lib.JUDGED_SPLICE
    assert Opening(ELSEWHERE, to="203.0.113.9", waited=0.5).judge(b"GE") == lib.JUDGED_MORE
    assert Opening(ELSEWHERE, waited=0.5).judge(PLAIN[:-2]) == lib.JUDGED_MORE


# First bytes that a lenient server could read as a request, and we read as opaque.
OPAQUE = {
    "zero": b"\0hello",
    "long-method": b"A" * 33 + b" / HTTP/1.1\r\nHost: a.test\r\n\r\n",
    "very-long-method": b"A" * 20_000 + b" / HTTP/1.1\r\nHost: a.test\r\n\r\n",
    "nul": b"GET /\0 HTTP/1.1\r\nHost: a.test\r\n\r\n",
    "del": b"GET /\x7f HTTP/1.1\r\nHost: a.test\r\n\r\n",
    "rtsp": b"OPTIONS rtsp://a.test/ RTSP/1.0\r\nCSeq: 1\r\n\r\n",
    "sip": b"REGISTER sip:a.test SIP/2.0\r\n\r\n",
    "icecast": b"SOURCE /live ICE/1.0\r\n\r\n",
    "other": b"x y z/9.9\r\n",
    "proxy-v1": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 80\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
    "proxy-unknown": b"PROXY UNKNOWN\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
    "proxy-v2": b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12) + b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
    "ssh": SSH,
    "openvpn": b"\0\x0e\x38" + bytes(13),
    "ldap": b"0\x0c\x02\x01\x01`\x07\x02\x01\x03\x04\0\x80\0",
    "ldap-simple": b"0\x20\x02\x01\x01`\x1b\x02\x01\x03\x04\x0ecn=me,dc=a,dc=b\x80\x06secret" + b"x" * 40,
    "redis": b"PING\r\n",
}


@pytest.mark.parametrize("first", OPAQUE.values(), ids=OPAQUE)
def test_an_opaque_client_that_speaks_first_passes_only_where_no_rule_could_matter(first: bytes) -> None:
    for to in ("203.0.113.1", "2001:db8::1"):
        assert Opening(ELSEWHERE, to=to).judge(first) == lib.JUDGED_SPLICE
        assert Opening(OPEN, to=to).judge(first) == lib.JUDGED_SPLICE
    for to in ("203.0.113.9", "2001:db8::9", "64:ff9b::203.0.113.9"):
        assert Opening(ELSEWHERE, to=to).judge(first) == lib.JUDGED_KEEP
        assert Opening(ELSEWHERE, to=to, waited=10.0).judge(first) == lib.JUDGED_REFUSE
        assert Opening(ELSEWHERE, to=to, has_greeted=1).judge(first) == lib.JUDGED_SPLICE
    assert Opening(RULED, waited=10.0).judge(first) == lib.JUDGED_REFUSE  # the addresses aren't known yet
    everything = resolved(compile(Rules({}, 0, internet=True), 1), [])
    assert Opening(everything, waited=10.0).judge(first) == lib.JUDGED_REFUSE


@pytest.mark.parametrize("form", ["GET /{} HTTP/1.1", "GET /{} RTSP/1.0", "GET {}", "{} / HTTP/1.1", "\r\n{}"])
@pytest.mark.parametrize("size", [16_384, 40_000])
def test_a_first_line_beyond_the_buffer_opens_no_way_to_a_ruled_host(form: str, size: int) -> None:
    first = form.format("a" * size).encode()
    refused = (lib.JUDGED_SERVE, lib.JUDGED_REFUSE, lib.JUDGED_KEEP)
    for end in (size, len(first)):
        assert Opening(ELSEWHERE, to="203.0.113.9").judge(first[:end]) in refused
        assert Opening(ELSEWHERE, name="my.kv").judge(first[:end]) in refused
    assert Opening(ELSEWHERE).judge(b"GET /" + b"a" * size) == lib.JUDGED_UNFRAMED


def hello(host: str | None, *, grease: bool = False) -> bytes:
    """Returns a ClientHello; with `grease`, it has an extension as Chrome's (encrypted_client_hello)."""
    context = ssl.create_default_context()
    context.check_hostname = False
    out = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=host).do_handshake()
    message = out.read()[9:]
    if grease:
        at = 34 + 1 + message[34]
        at += 2 + int.from_bytes(message[at : at + 2], "big")
        at += 1 + message[at]
        more = b"\xfe\x0d\x00\x20" + bytes(32)
        extensions = message[at + 2 :] + more
        message = message[:at] + len(extensions).to_bytes(2, "big") + extensions
    handshake = b"\x01" + len(message).to_bytes(3, "big") + message
    return b"\x16\x03\x01" + len(handshake).to_bytes(2, "big") + handshake


def test_tls_without_a_name_is_refused_at_a_ruled_address_alone() -> None:
    for to in ("203.0.113.9", "2001:db8::9", "64:ff9b::203.0.113.9", "2002:cb00:7109::1"):
        assert Opening(ELSEWHERE, to=to).judge(hello(None)) == lib.JUDGED_REFUSE
        assert Opening(ELSEWHERE, to=to).judge(b"\x16\x03\x01\x00\x05\x01\0\0\x01\0") == lib.JUDGED_REFUSE
        for grease in (False, True):
            assert Opening(ELSEWHERE, to=to).judge(hello("a.test", grease=grease)) == lib.JUDGED_SPLICE
            assert Opening(ELSEWHERE, to=to).judge(hello("my.kv", grease=grease)) == lib.JUDGED_REFUSE
    for name in (None, "a.test"):
        assert Opening(ELSEWHERE).judge(hello(name, grease=True)) == lib.JUDGED_SPLICE


@pytest.mark.parametrize("host", ["203.0.113.9", "203.0.113.9:8080", "[2001:db8::9]", "[::ffff:203.0.113.9]"])
def test_an_address_is_no_name_of_a_ruled_host(host: str) -> None:
    first = f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    assert Opening(ELSEWHERE, to="203.0.113.9").judge(first) == lib.JUDGED_SERVE
    assert Opening(ELSEWHERE, to="203.0.113.1").judge(first) == lib.JUDGED_SERVE
    other = first.replace(b"9]", b"1]").replace(b".9", b".1")
    assert Opening(ELSEWHERE, to="203.0.113.1").judge(other) == lib.JUDGED_FOLLOW
