"""HTTP/1.1 heads and chunked bodies, as C frames them for both sides."""

import pytest
from pyinterceptor._relay import ffi, lib

PLAIN = b"GET /a HTTP/1.1\r\nHost: my.kv\r\n"

# What two parsers could read differently, or is too much, with the status it is answered with.
AMBIGUOUS = [
    (PLAIN + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (PLAIN + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n", 400),
    (PLAIN + b"Transfer-Encoding : chunked\r\n\r\n", 400),
    (PLAIN + b"Transfer-Encoding: chunked, identity\r\n\r\n", 400),
    (PLAIN + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (PLAIN + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
    (PLAIN + b"Transfer-Encoding: chunked,\r\n\r\n", 400),
    (PLAIN + b"Transfer-Encoding:\r\n\r\n", 400),
    (PLAIN + b"Transfer-Encoding: \x0bchunked\r\n\r\n", 400),
    (PLAIN + b"Content-Length: +5\r\n\r\n", 400),
    (PLAIN + b"Content-Length: 0x5\r\n\r\n", 400),
    (PLAIN + b"Content-Length: 5, 5\r\n\r\n", 400),
    (PLAIN + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
    (PLAIN + b"Content-Length: 99999999999999999999\r\n\r\n", 400),
    (PLAIN + b"Content-Length:\r\n\r\n", 400),
    (PLAIN + b" folded: yes\r\n\r\n", 400),
    (PLAIN + b"X: a\nY: b\r\n\r\n", 400),
    (PLAIN + b"X: a\rY: b\r\n\r\n", 400),
    (PLAIN + b"X: a\x00b\r\n\r\n", 400),
    (PLAIN + b"no colon\r\n\r\n", 400),
    (PLAIN + b": nameless\r\n\r\n", 400),
    (PLAIN + b"Host: other\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a@my.kv\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: my.kv/x\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: my kv\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: my.kv:8a\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: my.kv..\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: [my.kv]\r\n\r\n", 400),
    (b"GET http://other/ HTTP/1.1\r\nHost: my.kv\r\n\r\n", 400),
    (b"GET http://a@my.kv/ HTTP/1.1\r\nHost: my.kv\r\n\r\n", 400),
    (b"GET  / HTTP/1.1\r\nHost: my.kv\r\n\r\n", 400),
    (b"GET / HTTP/1.1 \r\nHost: my.kv\r\n\r\n", 400),
    (b"GET my.kv HTTP/1.1\r\nHost: my.kv\r\n\r\n", 400),
    (b"GET / HTTP/2.0\r\nHost: my.kv\r\n\r\n", 505),
    (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (b"\r\n" + PLAIN + b"\r\n", 400),
    (PLAIN + b"X: y\r\n" * 200 + b"\r\n", 431),
    (PLAIN + b"X: " + b"y" * 20000, 431),
]


def request(head: bytes):
    frame = ffi.new("struct frame *")
    lib.frame_request(head, len(head), frame)
    return frame


def response(head: bytes, to_head: bool = False):
    frame = ffi.new("struct frame *")
    lib.frame_response(head, len(head), to_head, frame)
    return frame


@pytest.mark.parametrize(
    ("fields", "body", "length"),
    [
        (b"", lib.BODY_NONE, 0),
        (b"Content-Length: 5\r\n", lib.BODY_LENGTH, 5),
        (b"content-length:5\r\nContent-Length: 5\r\n", lib.BODY_LENGTH, 5),
        (b"Transfer-Encoding: Chunked\r\n", lib.BODY_CHUNKED, 0),
    ],
)
def test_a_plain_request_is_framed_whole_byte_by_byte_and_with_a_tail(fields, body, length):
    head = PLAIN + fields + b"\r\n"
    for end in range(len(head)):
        assert request(head[:end]).status == lib.FRAME_MORE
    for tail in (b"", b"GET / HTTP/1.1\r\n", b"\x00\xff"):
        frame = request(head + tail)
        assert (frame.status, frame.head_length) == (lib.FRAME_PLAIN, len(head))
        assert (frame.body, frame.body_length, frame.keep_alive) == (body, length, 1)
        assert ffi.string(frame.host) == b"my.kv"


@pytest.mark.parametrize(("head", "answer"), AMBIGUOUS)
def test_what_two_parsers_could_read_differently_is_bad(head, answer):
    frame = request(head)
    assert (frame.status, frame.answer) == (lib.FRAME_BAD, answer)
    assert ffi.string(frame.reason)


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET http://my.kv/ HTTP/1.1\r\nHost: MY.kv\r\n\r\n",
        b"CONNECT my.kv:443 HTTP/1.1\r\nHost: my.kv\r\n\r\n",
        b"TRACE / HTTP/1.1\r\nHost: my.kv\r\n\r\n",
        PLAIN + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        PLAIN + b"Connection: upgrade\r\nUpgrade: websocket, h2c\r\n\r\n",
    ],
)
def test_what_is_legal_but_not_plain_is_told_apart(head):
    assert request(head).status == lib.FRAME_LEGAL


@pytest.mark.parametrize(
    ("head", "to_head", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", False, lib.BODY_LENGTH),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", True, lib.BODY_NONE),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n", False, lib.BODY_NONE),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", False, lib.BODY_NONE),
        (b"HTTP/1.1 100 Continue\r\n\r\n", False, lib.BODY_NONE),
        (b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n", False, lib.BODY_CHUNKED),
        (b"HTTP/1.1 200 OK\r\n\r\n", False, lib.BODY_UNTIL_CLOSE),
    ],
)
def test_a_response_is_framed(head, to_head, body):
    frame = response(head, to_head)
    assert (frame.status, frame.body, frame.head_length) == (lib.FRAME_PLAIN, body, len(head))


@pytest.mark.parametrize("head", [b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 20 OK\r\n\r\n", b"HTTP/1.1 200 OK\nA: b\r\n\r\n"])
def test_a_response_that_is_none_is_bad(head):
    frame = response(head)
    assert (frame.status, frame.answer) == (lib.FRAME_BAD, 502)


def eat(pieces):
    state, total = ffi.new("struct chunks *"), 0
    for piece in pieces:
        eaten = lib.chunks_eat(state, piece, len(piece))
        total += eaten
        if eaten < len(piece):
            break
    return total, state.done, state.bad


def test_chunks_end_at_the_same_byte_whole_byte_by_byte_and_with_a_tail():
    body = b"3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\n"
    assert eat([body]) == (len(body), 1, 0)
    assert eat([body[i : i + 1] for i in range(len(body))]) == (len(body), 1, 0)
    assert eat([body + b"GET / HTTP/1.1"]) == (len(body), 1, 0)


@pytest.mark.parametrize(
    "body",
    [
        b"\r\n",
        b"-1\r\n",
        b"0x1\r\na\r\n",
        b"1\na\r\n",
        b"1\r\nab\r\n",
        b"1\r\na\n0\r\n\r\n",
        b"1 \r\na\r\n",
        b"f" * 17 + b"\r\n",
    ]
    + [b"0\r\n folded\r\n\r\n", b"1;" + b"x" * 2000 + b"\r\n"],
)
def test_malformed_chunks_are_bad(body):
    assert eat([body])[1:] == (0, 1)
