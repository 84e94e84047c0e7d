"""Chunked bodies, framed by C for requests and responses."""

import pytest
from pyinterceptor._relay import ffi, lib


def eat(pieces, is_lenient: bool = False):
    state, total = ffi.new("struct chunks *", {"is_lenient": is_lenient}), 0
    for piece in pieces:
        eaten = lib.chunks_eat(state, piece, len(piece))
        total += eaten
        if eaten < len(piece):
            break
    return total, state.reading


def test_chunks_end_at_the_same_byte_whole_byte_by_byte_and_with_a_tail():
    body = b"3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\n"
    assert eat([body]) == (len(body), lib.READING_WHOLE)
    assert eat([body[i : i + 1] for i in range(len(body))]) == (len(body), lib.READING_WHOLE)
    assert eat([body + b"GET / HTTP/1.1"]) == (len(body), lib.READING_WHOLE)


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
def test_malformed_chunks_of_a_request_are_bad(body):
    assert eat([body])[1] == lib.READING_BAD


@pytest.mark.parametrize(
    "body",
    [
        b"5   \r\nhello\r\n0   \r\n\r\n",
        b"  5\t\r\nhello\r\n0\r\n\r\n",
        b"0000000000000000000000005\r\nhello\r\n0\r\n\r\n",
        b"5 ; a = b\r\nhello\r\n0;\xff\x00\r\n\r\n",
        b"5;" + b"x" * 100_000 + b"\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\r\nbad name: x\r\n folded\r\nno colon\r\n: \x00\r\n\r\n",
        b"5\r\nhello\r\n0\r\nlong: " + b"x" * 300_000 + b"\r\n\r\n",
    ],
)
def test_chunks_of_a_response_are_read_leniently(body):
    assert eat([body])[1] == lib.READING_BAD or body.startswith(b"0000")
    assert eat([body + b"HTTP/1.1"], is_lenient=True) == (len(body), lib.READING_WHOLE)
    assert eat([body[i : i + 1] for i in range(len(body))], is_lenient=True) == (len(body), lib.READING_WHOLE)


@pytest.mark.parametrize(
    "body",
    [
        b"\r\n",
        b" \r\n",
        b"-1\r\n",
        b"+1\r\n",
        b"0x1\r\na\r\n",
        b"1 1\r\na\r\n",
        b"1\na\r\n",
        b"1;a\nb\r\na\r\n",
        b"1;a\rb\r\na\r\n",
        b"1\r\nab\r\n",
        b"1\r\na\n0\r\n\r\n",
        b"0\r\n\n",
        b"0\r\na: b\n\r\n",
        b"f" * 17 + b"\r\n",
    ],
)
def test_chunks_of_a_response_that_clients_read_differently_are_bad(body):
    assert eat([body], is_lenient=True)[1] == lib.READING_BAD
