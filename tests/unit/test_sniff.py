"""The protocol and host that a flow's first bytes show."""

import ssl

import pytest
from pyinterceptor._relay import ffi, lib

from tests.unit.cost import seconds


def sniff(data: bytes):
    """Returns the opening; None while it is uncertain."""
    opening = ffi.new("struct opening *")
    reading = lib.sniff(ffi.new("struct sniffing *"), data, len(data), opening)
    return opening if reading == lib.READING_WHOLE else None


def sniff_final(data: bytes):
    """Returns the opening if no further bytes come."""
    opening = ffi.new("struct opening *")
    lib.sniff(ffi.new("struct sniffing *"), data, len(data), opening)
    return opening


def sniff_in_pieces(data: bytes, size: int = 1):
    """Feeds `size` bytes more each time. Returns the opening, and the count of bytes that made it certain."""
    so_far, opening = ffi.new("struct sniffing *"), ffi.new("struct opening *")
    for end in range(size, len(data) + size, size):
        if lib.sniff(so_far, data[:end], min(end, len(data)), opening) == lib.READING_WHOLE:
            return opening, min(end, len(data))
    raise AssertionError("it was never certain")


def client_hello(host: str | None, alpn: list[str]) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname = host is not None
    context.set_alpn_protocols(alpn)
    out = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=host)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read()


def in_records(hello: bytes, size: int) -> bytes:
    """Returns the same handshake message in records of `size` bytes."""
    message = hello[5:]
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(hello[:3] + len(piece).to_bytes(2, "big") + piece for piece in pieces)


def test_http_waits_for_the_blank_line():
    head = b"GET / HTTP/1.1\r\nHost: My.kv:80\r\n\r\n"
    for end in range(len(head)):
        assert sniff(head[:end]) is None
    for tail in (b"", b"more"):
        opening = sniff(head + tail)
        assert (opening.protocol, opening.head_length, opening.ambiguous) == (lib.PROTOCOL_HTTP, len(head), 0)
        assert ffi.string(opening.host) == b"My.kv:80"


def test_an_ambiguous_head_is_http_and_marked_ambiguous():
    opening = sniff(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
    assert (opening.protocol, opening.ambiguous) == (lib.PROTOCOL_HTTP, 1)


@pytest.mark.parametrize("size", [16384, 100, 1])
@pytest.mark.parametrize("alpn", [["http/1.1"], ["h2", "http/1.1"]])
def test_a_client_hello_gives_its_name_over_records_and_segments(size, alpn):
    hello = in_records(client_hello("my.kv", alpn), size)
    for end in range(0, len(hello), 7):
        assert sniff(hello[:end]) is None
    opening = sniff(hello)
    assert (opening.protocol, opening.http2) == (lib.PROTOCOL_TLS, "h2" in alpn)
    assert ffi.string(opening.host) == b"my.kv"


def test_the_http2_preface_is_recognised_whole_only():
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    for end in range(len(preface)):
        assert sniff(preface[:end]) is None
    assert sniff(preface + b"\x00\x00").protocol == lib.PROTOCOL_HTTP2


@pytest.mark.parametrize(
    "data",
    [b"SSH-2.0-OpenSSH_9\r\n", b"\x00\x01", b"*1\r\n$4\r\nPING\r\n", b"EHLO me\r\n", b"get key\r\n", b"USER me\r\n"]
    + [b"OPTIONS sip:me SIP/2.0\r\n", b"\x16\x04\x01\x00\x05\x02", b"\x80\x2e\x01\x04", b"\xff\xfd\x01"],
)
def test_other_protocols_are_opaque_at_once(data):
    assert sniff(data).protocol == lib.PROTOCOL_OPAQUE


@pytest.mark.parametrize(
    "line",
    [b"\r\nGET / HTTP/1.1", b" GET / HTTP/1.1", b"get / http/1.1", b"GET\t/\tHTTP/1.1", b"GET / HTTP/3.7"]
    + [b"GeT / HTTP/1.1", b"GET  /  HTTP/1.1", b"GET / x HTTP/1.1", b"GET HTTP/1.1", b"x! ? HTTP/1.1"]
    + [b"GET /", b"get /x y", b"POST http://my.kv/", b"GET\r/ HTTP/1.1", b"GET /\rHTTP/1.1", b"x\x0b/\x0cHTTP/1.1"]
    + [b"GET\xa0/\xa0HTTP/1.1", b"\x1cGET\x85/ HTTP/1.1"],
)
def test_a_line_that_a_lenient_server_accepts_is_http(line):
    head = line + b"\r\nHost: my.kv\r\n\r\n"
    assert sniff(head).protocol == lib.PROTOCOL_HTTP
    for end in range(len(line) + 1):
        assert sniff(head[:end]) is None


@pytest.mark.parametrize(
    "damage",
    [b"\x16\x03\x01\x40\x00\x01\x00\x7f\xff", b"\x16\x03\x01\x00\x05\x02", b"\x80\x2e\x01\x03\x01\x00"],
)
def test_tls_that_cannot_be_read_is_tls_of_no_known_host(damage):
    opening = sniff(damage + b"\x00" * 16384)
    assert (opening.protocol, opening.host_length) == (lib.PROTOCOL_TLS, 0)


def test_final_bytes_are_always_judged():
    assert sniff_final(b"").protocol == lib.PROTOCOL_OPAQUE
    assert sniff_final(b"GE").protocol == lib.PROTOCOL_OPAQUE
    assert sniff_final(b"GET / HTTP/1.1\r\nHost: a\r\n").protocol == lib.PROTOCOL_HTTP
    assert sniff(b"GET /" + b"a" * 20000).protocol == lib.PROTOCOL_HTTP
    assert sniff_final(client_hello("my.kv", [])[:50]).protocol == lib.PROTOCOL_TLS
    assert sniff_final(client_hello("my.kv", [])[:2]).protocol == lib.PROTOCOL_OPAQUE


def test_empty_records_before_a_client_hello_hide_nothing():
    for count in (1, 3):
        opening = sniff(b"\x16\x03\x01\x00\x00" * count + client_hello("my.kv", []))
        assert (opening.protocol, ffi.string(opening.host)) == (lib.PROTOCOL_TLS, b"my.kv")


def described(opening):
    return opening.protocol, opening.head_length, opening.ambiguous, opening.http2, ffi.string(opening.host)


OPENINGS = [
    b"GET / HTTP/1.1\r\nHost: My.kv:80\r\n\r\n",
    b"\r\n \t GET   / x HTTP/1.1\r\nHost: My.kv:80\r\n\r\n",
    b"get /\r\n",
    b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"SSH-2.0-OpenSSH_9\r\n",
    b"GET key without a version\r\n",
    b"GET /a\x00b HTTP/1.1\r\n",
    b"\x16\x03\x01\x00\x05\x02",
    b"\x80\x2e\x01\x03\x01\x00",
]


@pytest.mark.parametrize("size", [1, 2, 3, 50])
@pytest.mark.parametrize("data", OPENINGS)
def test_an_opening_is_the_same_however_it_arrives(data, size):
    opening, end = sniff_in_pieces(data, size)
    whole = sniff(data[:end])
    assert described(opening) == described(whole)
    assert sniff(data[: max(0, end - size)]) is None


@pytest.mark.parametrize("records", [16384, 100, 3, 1])
def test_a_client_hello_is_the_same_however_it_arrives(records):
    hello = in_records(client_hello("my.kv", ["h2"]), records)
    opening, end = sniff_in_pieces(hello + b"\x17\x03\x03")
    assert (described(opening), end) == (described(sniff(hello)), len(hello))


@pytest.mark.parametrize("data", OPENINGS)
def test_a_further_look_gives_the_same_answer(data):
    so_far, opening = ffi.new("struct sniffing *"), ffi.new("struct opening *")
    answers = []
    for end in range(1, len(data) + 20):
        if lib.sniff(so_far, data + b"." * 20, end, opening):
            answers.append(described(opening))
    assert len(set(answers)) == 1


def long_openings():
    hello = client_hello("my.kv", [])
    padded = (len(hello) - 9 + 12_000).to_bytes(3, "big")  # it ends after 12 000 further bytes at the earliest
    return {
        "a head": b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: " + b"y" * 15_900,
        "a request line": b"GET /" + b"a" * 15_900,
        "blanks before a method": b"\r\n" * 7_950,
        "blanks before a target": b"GET" + b" " * 15_900,
        "a hello in one record": b"\x16\x03\x01\x3f\xff\x01" + padded + hello[9:] + b"\0" * 11_000,
        "a hello in records of a byte": in_records(b"\x16\x03\x01\0\0\x01" + padded + b"\0" * 2_600, 1),
    }


@pytest.mark.parametrize("name", long_openings())
def test_an_opening_that_comes_byte_by_byte_costs_its_bytes_once(name):
    """Beside the calls, the bytes cost about as much as 300 whole openings. Starting anew would cost that of 7 500."""
    data = long_openings()[name]
    start, opening = ffi.from_buffer(data), ffi.new("struct opening *")

    def whole() -> None:
        for _ in range(300):
            lib.sniff(ffi.new("struct sniffing *"), start, len(data), opening)

    def pieces() -> None:
        so_far = ffi.new("struct sniffing *")
        for end in range(1, len(data) + 1):
            assert lib.sniff(so_far, start, end, opening) == lib.READING_MORE

    def calls() -> None:
        so_far = ffi.new("struct sniffing *")
        for _ in range(len(data)):
            assert lib.sniff(so_far, start, 1, opening) == lib.READING_MORE

    assert seconds(pieces) < 5 * seconds(whole) + 2 * seconds(calls)
