"""Hosts that a client asks a proxy for, found in bytes that pass unframed: pure C, fed whole and byte by byte."""

from __future__ import annotations

import pytest
from pyinterceptor._relay import ffi, lib


def asked(data: bytes, piece: int) -> list[bytes]:
    """Returns the authorities that are found, if `piece` bytes arrive at a time."""
    watch, found, at = ffi.new("struct watch *"), [], 0
    while at < len(data):
        at += lib.watch_eat(watch, data[at : at + piece], len(data[at : at + piece]))
        if watch.is_asked:
            found.append(ffi.string(watch.authority))
    return found


@pytest.mark.parametrize("piece", [1, 7, 10_000])
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"GET http://a.test/ HTTP/1.1\r\n", [b"a.test"]),
        (b"GET /\xc3\xa4 HTTP/1.1\r\nHost: b\r\n\r\nGET http://a.test:80?x HTTP/1.1\r\n", [b"a.test:80"]),
        (b"CONNECT a.test:443 HTTP/1.1\r\n", [b"a.test:443"]),
        (b"\r\n \tconnect\t [::1]:443\r\n", [b"[::1]:443"]),
        (b"A" * 300 + b" HtTp://a.test\n\nGET http://b.test\n", [b"a.test", b"b.test"]),
        (b"GET http://" + b"u" * 300 + b":p@a.test/ HTTP/1.1\r\n", [b"a.test"]),
        (b"GET ftp://a.test\\ HTTP/1.1\r\n", [b"a.test"]),
        (b"GET http://a.tes", []),
        (b"GET / HTTP/1.1\r\nReferer: http://a.test/\r\nCONNECTION: close\r\n\r\n", []),
        (b"CONNECTS a.test:443 HTTP/1.1\r\nCONNEC a.test:443 HTTP/1.1\r\n", []),
        (b"SSH-2.0-x\r\n\0http://a.test/ GET http://a.test/\r\n", []),
        (b"http://a.test/ is a page\r\n", []),
    ],
)
def test_the_hosts_that_a_proxy_is_asked_for_are_found(data: bytes, expected: list[bytes], piece: int) -> None:
    assert asked(data, piece) == expected


def test_an_authority_that_no_host_has_is_cut() -> None:
    [found] = asked(b"GET http://" + b"a" * 400 + b"/ HTTP/1.1\r\n", 100)
    assert found == b"a" * lib.AUTHORITY_MAX


@pytest.mark.parametrize("data", [b"GET /\0 HTTP/1.1\r\n", b"\x7f", b"one\ntwo \x03 three"])
def test_a_byte_that_no_request_line_has_is_noted(data: bytes) -> None:
    for binary, expected in ((data, 1), (b"get /key\r\n\xc3\xa4\t\x1c\n", 0)):
        watch = ffi.new("struct watch *")
        lib.watch_eat(watch, binary, len(binary))
        assert watch.has_binary == expected
