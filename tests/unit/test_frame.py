"""HTTP/1.1 request heads, framed by C."""


import pytest
from pyinterceptor._relay import ffi, lib

from tests.unit.cost import seconds

PLAIN = b"GET /a HTTP/1.1\r\nHost: my.kv\r\n"

# Heads that two parsers could read differently, or that are too large, and the status of the answer.
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


def request(data: bytes):
    frame = ffi.new("struct frame *")
    return lib.frame_request(ffi.new("struct head *"), data, len(data), frame), frame


def request_in_pieces(data: bytes, size: int):
    """Feeds `size` bytes more each time. Returns the first result other than READING_MORE, and its offset."""
    head, frame = ffi.new("struct head *"), ffi.new("struct frame *")
    for end in range(size, len(data) + size, size):
        if reading := lib.frame_request(head, data[:end], min(end, len(data)), frame):
            return reading, frame, min(end, len(data))
    return lib.READING_MORE, frame, len(data)


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
        assert request(head[:end])[0] == lib.READING_MORE
    reading, frame, end = request_in_pieces(head + b"GET / HTTP/1.1\r\n", 1)
    assert (reading, end, frame.is_plain, ffi.string(frame.host)) == (lib.READING_WHOLE, len(head), 1, b"my.kv")
    for tail in (b"", b"GET / HTTP/1.1\r\n", b"\x00\xff"):
        reading, frame = request(head + tail)
        assert (reading, frame.is_plain, frame.head_length) == (lib.READING_WHOLE, 1, len(head))
        assert (frame.body, frame.body_length, frame.keep_alive) == (body, length, 1)
        assert ffi.string(frame.host) == b"my.kv"


@pytest.mark.parametrize(("head", "answer"), AMBIGUOUS)
def test_a_head_that_two_parsers_could_read_differently_is_bad(head, answer):
    for reading, frame in (request(head), request_in_pieces(head, 1)[:2]):
        assert (reading, frame.answer) == (lib.READING_BAD, answer)
        assert ffi.string(frame.reason)


@pytest.mark.parametrize(
    ("head", "sound"),
    [
        (b"GET / HTTP/1.1\nHost: my.kv\n\n", b"GET / HTTP/1.1"),
        (b"GET / HTTP/1.1\r\nHost: my.kv\n\n", b"GET / HTTP/1.1\r\nHost: my.kv"),
        (b"GET / HTTP/1.1\r\nX: a\rb", b"GET / HTTP/1.1\r\nX: a\r"),
        (b"GET / HTTP/1.1\r\nno colon\r\nX: y\r\n", b"GET / HTTP/1.1\r\nno colon\r"),
        (b"GET / HTTP/7.1\r\nX: y\r\n", b"GET / HTTP/7.1\r"),
    ],
)
def test_a_fault_is_reported_at_its_byte_or_the_end_of_its_line(head, sound):
    reading, _, end = request_in_pieces(head, 1)
    assert (reading, head[: end - 1]) == (lib.READING_BAD, sound)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_a_further_look_at_a_whole_head_gives_the_same_answer(size):
    data = PLAIN + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"
    head, frame = ffi.new("struct head *"), ffi.new("struct frame *")
    seen = []
    for end in range(size, len(data) + size, size):
        if lib.frame_request(head, data[:end], min(end, len(data)), frame):
            seen.append((frame.head_length, frame.body_length, frame.is_plain, ffi.string(frame.host)))
    assert set(seen) == {(len(data) - 5, 5, 1, b"my.kv")}


def longest_head() -> bytes:
    """Returns the longest request head that is accepted, of ordinary fields."""
    head = PLAIN + b"".join(b"X-%d: " % number + b"y" * 150 + b"\r\n" for number in range(98))
    return head + b"Z: " + b"z" * (16_000 - len(head) - 7) + b"\r\n\r\n"


def test_a_head_that_comes_byte_by_byte_costs_its_bytes_once():
    """All calls together search as many bytes as one call with the whole head."""
    data = longest_head()
    head, frame = ffi.new("struct head *"), ffi.new("struct frame *")
    for end in range(1, len(data)):
        before = head.searched
        assert lib.frame_request(head, data, end, frame) == lib.READING_MORE
        assert 0 <= head.searched - before <= 2
        assert end - head.searched <= 1  # a CR at the end is searched again
    assert lib.frame_request(head, data, len(data), frame) == lib.READING_WHOLE


def test_looking_16_000_times_takes_no_longer_than_a_few_hundred_whole_looks():
    data = longest_head()
    heads = ffi.new("struct head[]", 300)
    frame, start = ffi.new("struct frame *"), ffi.from_buffer(data)

    def whole() -> None:
        for at in range(len(heads)):
            heads[at] = ffi.new("struct head *")[0]
            lib.frame_request(heads + at, start, len(data), frame)

    def pieces() -> None:
        head = ffi.new("struct head *")
        for end in range(1, len(data) + 1):
            lib.frame_request(head, start, end, frame)

    assert seconds(pieces) < 3 * seconds(whole)  # starting anew each time would cost 8 000 whole heads


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"CONNECT my.kv:443 HTTP/1.1\r\nHost: my.kv\r\n\r\n",
        b"TRACE / HTTP/1.1\r\nHost: my.kv\r\n\r\n",
        PLAIN + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        PLAIN + b"Connection: upgrade\r\nUpgrade: websocket, h2c\r\n\r\n",
    ],
)
def test_a_legal_head_that_is_not_plain_is_marked(head):
    reading, frame = request(head)
    assert (reading, frame.is_plain) == (lib.READING_WHOLE, 0)


@pytest.mark.parametrize(
    ("line", "host", "named"),
    [
        (b"GET http://my.kv/ HTTP/1.1", b"MY.kv", b"my.kv"),
        (b"GET http://my.kv:80/ HTTP/1.1", b"my.kv", b"my.kv:80"),
        (b"GET http://my.kv/ HTTP/1.1", b"my.kv:80", b"my.kv"),
        (b"GET https://my.kv:443/ HTTP/1.1", b"my.kv", b"my.kv:443"),
        (b"GET http://[2001:db8::1]:80/ HTTP/1.1", b"[2001:db8::1]", b"[2001:db8::1]:80"),
        (b"CONNECT my.kv:443 HTTP/1.1", b"my.kv", b"my.kv:443"),
        (b"CONNECT my.kv:443 HTTP/1.1", b"my.kv:443", b"my.kv:443"),
    ],
)
def test_a_target_names_its_host_with_or_without_the_default_port(line, host, named):
    reading, frame = request(line + b"\r\nHost: " + host + b"\r\n\r\n")
    assert (reading, ffi.string(frame.host)) == (lib.READING_WHOLE, named)
    assert frame.is_plain == line.startswith(b"GET")


@pytest.mark.parametrize(
    ("line", "host"),
    [
        (b"GET http://my.kv:8080/ HTTP/1.1", b"my.kv"),
        (b"GET https://my.kv:80/ HTTP/1.1", b"my.kv"),
        (b"GET http://my.kv/ HTTP/1.1", b"other.kv"),
        (b"CONNECT my.kv:443 HTTP/1.1", b"other.kv:443"),
    ],
)
def test_a_target_that_names_another_host_is_refused(line, host):
    reading, frame = request(line + b"\r\nHost: " + host + b"\r\n\r\n")
    assert (reading, frame.answer) == (lib.READING_BAD, 400)


@pytest.mark.parametrize("request_", [b"GET /a", b"get /a\r\n", b"\r\n GET\t/a", b"OPTIONS * HTTP/1.1", b"GET //a/"])
def test_a_request_for_a_path_is_not_for_a_proxy(request_):
    assert not lib.frame_is_for_proxy(request_, len(request_))


@pytest.mark.parametrize("request_", [b"GET http://my.kv/", b"\nGET\x0bhttp:/", b"CONNECT a:443", b"GET ", b"", b"G"])
def test_a_request_with_any_other_target_could_be_for_a_proxy(request_):
    assert lib.frame_is_for_proxy(request_, len(request_))
