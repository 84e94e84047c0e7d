"""What a flow's first bytes are taken for."""

import ssl

import pytest
from pyinterceptor._relay import ffi, lib


def sniff(data: bytes, final: bool = False):
    opening = ffi.new("struct opening *")
    lib.sniff(data, len(data), final, opening)
    return opening


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
    """The same handshake message, cut into records of `size` bytes."""
    message = hello[5:]
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(hello[:3] + len(piece).to_bytes(2, "big") + piece for piece in pieces)


def test_http_waits_for_the_blank_line():
    head = b"GET / HTTP/1.1\r\nHost: My.kv:80\r\n\r\n"
    for end in range(len(head)):
        assert sniff(head[:end]).protocol == lib.PROTOCOL_NONE
    for tail in (b"", b"more"):
        opening = sniff(head + tail)
        assert (opening.protocol, opening.head_length, opening.ambiguous) == (lib.PROTOCOL_HTTP, len(head), 0)
        assert ffi.string(opening.host) == b"My.kv:80"


def test_an_ambiguous_head_is_http_and_said_to_be():
    opening = sniff(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
    assert (opening.protocol, opening.ambiguous) == (lib.PROTOCOL_HTTP, 1)


@pytest.mark.parametrize("size", [16384, 100, 1])
@pytest.mark.parametrize("alpn", [["http/1.1"], ["h2", "http/1.1"]])
def test_a_client_hello_gives_its_name_over_records_and_segments(size, alpn):
    hello = in_records(client_hello("my.kv", alpn), size)
    for end in range(0, len(hello), 7):
        assert sniff(hello[:end]).protocol == lib.PROTOCOL_NONE
    opening = sniff(hello)
    assert (opening.protocol, opening.http2) == (lib.PROTOCOL_TLS, "h2" in alpn)
    assert ffi.string(opening.host) == b"my.kv"


def test_the_http2_preface_is_recognised_whole_only():
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    for end in range(len(preface)):
        assert sniff(preface[:end]).protocol == lib.PROTOCOL_NONE
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
def test_what_a_lenient_server_takes_for_http_is_http(line):
    head = line + b"\r\nHost: my.kv\r\n\r\n"
    assert sniff(head).protocol == lib.PROTOCOL_HTTP
    for end in range(len(line) + 1):
        assert sniff(head[:end]).protocol == lib.PROTOCOL_NONE


@pytest.mark.parametrize(
    "damage",
    [b"\x16\x03\x01\x40\x00\x01\x00\x7f\xff", b"\x16\x03\x01\x00\x05\x02", b"\x80\x2e\x01\x03\x01\x00"],
)
def test_tls_that_cannot_be_read_is_tls_of_no_known_host(damage):
    opening = sniff(damage + b"\x00" * 16384)
    assert (opening.protocol, opening.host_length) == (lib.PROTOCOL_TLS, 0)


def test_what_is_final_is_always_judged():
    assert sniff(b"", True).protocol == lib.PROTOCOL_OPAQUE
    assert sniff(b"GE", True).protocol == lib.PROTOCOL_OPAQUE
    assert sniff(b"GET / HTTP/1.1\r\nHost: a\r\n", True).protocol == lib.PROTOCOL_HTTP
    assert sniff(b"GET /" + b"a" * 20000).protocol == lib.PROTOCOL_HTTP
    assert sniff(client_hello("my.kv", [])[:50], True).protocol == lib.PROTOCOL_TLS
    assert sniff(client_hello("my.kv", [])[:2], True).protocol == lib.PROTOCOL_OPAQUE


def test_empty_records_before_a_client_hello_hide_nothing():
    for count in (1, 3):
        opening = sniff(b"\x16\x03\x01\x00\x00" * count + client_hello("my.kv", []))
        assert (opening.protocol, ffi.string(opening.host)) == (lib.PROTOCOL_TLS, b"my.kv")
