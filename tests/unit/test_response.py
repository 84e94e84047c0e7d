"""Response heads, framed by C as leniently as clients read them, and compared with a slow reference."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyinterceptor._relay import ffi, lib

OK = b"HTTP/1.1 200 OK\r\n"
LINE_MAX = lib.RESPONSE_LINE_MAX


@dataclass(frozen=True)
class Framed:
    """A head that ends after `length` bytes."""

    length: int
    status: int
    body: int
    body_length: int
    keep_alive: bool


def framed(data: bytes, to_head: bool = False, piece: int = 0) -> Framed | str:
    """Parses a head in pieces. Returns "more" if it is incomplete and "doubt" if its end is in doubt."""
    state, reading = ffi.new("struct response *"), ffi.new("enum reading *")
    for at in range(0, len(data), piece or len(data) or 1):
        some = data[at : at + piece] if piece else data
        eaten = lib.response_eat(state, some, len(some), to_head, reading)
        if reading[0] == lib.READING_BAD:
            return "doubt"
        if reading[0] == lib.READING_WHOLE:
            return Framed(at + eaten, state.status_code, state.body, state.body_length, bool(state.keep_alive))
        assert eaten == len(some)
    return "more"


# ---- the reference ----

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
STATUS = re.compile(rb"(?:HTTP/1\.(\d)|ICY)[ \t]+(\d{3})(?!\d)", re.DOTALL)
FRAMING = (b"content-length", b"transfer-encoding")


def mentions(line: bytes) -> bool:
    return any(name in line.lower() for name in FRAMING)


def behind_cr(line: bytes) -> bytes:
    return line.partition(b"\r")[2]


def members(values: list[bytes]) -> list[bytes]:
    return [member.strip(b" \t").lower() for value in values for member in value.split(b",")]


def reference(data: bytes, to_head: bool = False) -> Framed | str:
    """Reads a head whole: first all lines, then all fields, then what they mean together."""
    lines, at, is_started = [], 0, False
    while True:
        end = data.find(b"\n", at)
        if end < 0:
            return "more"
        line, at = data[at:end], end + 1
        line = line[:-1] if line.endswith(b"\r") else line
        if line.startswith(b"\r"):
            return "doubt"
        if not line and is_started:
            break
        if line:
            if not is_started and not (STATUS.match(line) and STATUS.match(line).group(2) >= b"100"):
                return "doubt"
            is_started = True
            lines.append(line)
    matched = STATUS.match(lines[0])
    assert matched
    is_new, status = (matched[1] or b"0") > b"0", int(matched[2])
    fields: list[tuple[bytes, bytes]] = []
    is_doubtful = False
    is_doubtful |= mentions(behind_cr(lines[0]))
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        is_folded = line[:1] in (b" ", b"\t")
        is_odd = not fields if is_folded else not colon or len(name) >= LINE_MAX or not TOKEN.fullmatch(name)
        if is_odd:
            is_doubtful |= mentions(line)
            fields.append((b"", b""))
            continue
        is_doubtful |= mentions(behind_cr(line))
        if not is_folded:
            fields.append((name.lower(), value.strip(b" \t")))
        elif fields[-1][0] in FRAMING:
            is_doubtful = True
        elif fields[-1][0] == b"connection":
            fields.append((b"connection", line.strip(b" \t")))
        if len(line) > 200 and fields[-1][0] in (*FRAMING, b"connection"):
            is_doubtful = True
            if fields[-1][0] == b"connection":
                fields[-1] = (b"connection", b"keep-alive")  # such a line isn't read, but may say so
    lengths = [value for name, value in fields if name == b"content-length"]
    codings = [coding for coding in members([v for n, v in fields if n == b"transfer-encoding"]) if coding]
    while codings[:1] == [b"identity"]:
        codings.pop(0)
    for at_coding, coding in enumerate(codings):
        is_doubtful |= not TOKEN.fullmatch(coding) or (at_coding > 0 and b"chunked" in codings[:at_coding])
    codings = [coding for coding in codings if coding != b"identity"]
    if lengths:
        numbers = [number for value in lengths for number in (members([value]) if value else [b"none"])]
        numbers = numbers[:-1] if any(v.endswith(b",") for v in lengths) and len(lengths) == 1 else numbers
        is_doubtful |= not all(re.fullmatch(rb"[0-9]{1,18}", number) for number in numbers)
        is_doubtful = is_doubtful or len({int(number) for number in numbers}) > 1
    is_doubtful |= bool(codings) and (bool(lengths) or not is_new)
    options = members([value for name, value in fields if name == b"connection"])
    keep_alive = b"close" not in options and (is_new or b"keep-alive" in options)
    if to_head or status < 200 or status in (204, 304):
        return Framed(at, status, lib.BODY_NONE, 0, keep_alive)
    if is_doubtful and keep_alive:
        return "doubt"
    if is_doubtful or (b"chunked" not in codings and not lengths):
        return Framed(at, status, lib.BODY_UNTIL_CLOSE, 0, False)
    if codings:
        return Framed(at, status, lib.BODY_CHUNKED, 0, keep_alive)
    length = int(members(lengths)[0])
    return Framed(at, status, lib.BODY_LENGTH if length else lib.BODY_NONE, length, keep_alive)


FIRST = [
    OK,
    OK,
    OK,
    b"\r\n" + OK,
    b"HTTP/1.0 200 OK\n",
    b"HTTP/1.1 304 \r\n",
    b"HTTP/1.1  999\t\x00\r\n",
    b"ICY 200\r\n",
]
NAMES = [b"Content-Length", b"content-length", b"Transfer-Encoding", b"Connection", b"X", b"X-Content-Length"]
VALUES = [b"5", b"5", b"05", b"7", b"5, 5", b"5, 7", b"+5", b"", b"chunked", b"gzip, chunked", b"identity", b"close"]
VALUES += [
    b"chunked, chunked",
    b"keep-alive, x",
    b"\x00",
    b"a\rContent-Length: 7",
    b"CHUNKED",
    b"gzip",
    b"1" * 19,
    b"b\x0bc",
]
ODD = [
    b"no colon",
    b": empty",
    b"a b: c",
    b"Content-Length : 5",
    b"caf\xc3\xa9: x",
    b"Content-Length",
    b"\r",
    b"\rx: y",
]
FRAMES = [b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Connection: close", b"Transfer-Encoding: gzip"]
fields = st.tuples(st.sampled_from(NAMES), st.sampled_from([b": ", b":", b":\t "]), st.sampled_from(VALUES))
folded = st.tuples(st.sampled_from([b" ", b"\t", b"  "]), st.sampled_from([*VALUES, *NAMES]))
line = st.one_of(
    st.sampled_from(FRAMES),
    st.one_of(fields, folded).map(b"".join),
    st.sampled_from(ODD),
    st.binary(max_size=12),
)
line = st.one_of(
    line, line, line, st.tuples(line, st.sampled_from([b"", b"\r"]), line, st.just(b"y" * 300), line).map(b"".join)
)
ended = st.builds(lambda text, end: text + end, line, st.sampled_from([b"\r\n", b"\r\n", b"\n", b"\r\r\n"]))
heads = st.builds(
    lambda first, lines, tail: first + b"".join(lines) + tail,
    st.sampled_from(FIRST),
    st.lists(ended, max_size=5),
    st.sampled_from([b"\r\n", b"\r\n", b"\n", b"\r", b"", b"\r\n\r\nHTTP/1.1 200 OK\r\n"]),
)


@given(heads, st.booleans())
def test_a_head_is_framed_as_by_the_reference(head: bytes, to_head: bool) -> None:
    assert framed(head, to_head) == reference(head, to_head)


LONG = b"keep-alive, " + b"y" * 300


@pytest.mark.parametrize("line", [b"Connection: " + LONG + b"\r\n", b"Connection: x\r\n " + LONG + b"\r\n"])
def test_a_connection_line_that_is_too_long_to_be_read_may_keep_the_connection(line: bytes) -> None:
    head = b"HTTP/1.0 200 OK\r\n" + line + b"Content-Length: 5\r\n\r\n"
    assert framed(head, False) == reference(head, False) == "doubt"


@given(heads, st.booleans(), st.integers(1, 9))
def test_a_head_in_pieces_is_framed_like_a_whole_one(head: bytes, to_head: bool, piece: int) -> None:
    assert framed(head, to_head, piece) == framed(head, to_head)


# ---- examples ----

FIELD = b"X-Field: " + b"v" * 200 + b"\r\n"
LENIENT = {
    "plain": OK + b"Content-Length: 5\r\n\r\n",
    "without a reason": b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\n",
    "status above 599": b"HTTP/1.1 999 Odd\r\nContent-Length: 5\r\n\r\n",
    "minor version": b"HTTP/1.2 200 OK\r\nContent-Length: 5\r\n\r\n",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 5\n\n",
    "bare LF at the end": OK + b"Content-Length: 5\r\n\n",
    "empty lines before": b"\r\n\n\r\n" + OK + b"Content-Length: 5\r\n\r\n",
    "folded": OK + b"X: a\r\n b\r\n\tContent-Length: 7\r\nContent-Length: 5\r\n\r\n",
    "space in a name": OK + b"Bad Name: x\r\nContent-Length: 5\r\n\r\n",
    "no name": OK + b": x\r\nContent-Length: 5\r\n\r\n",
    "no colon": OK + b"words\r\nContent-Length: 5\r\n\r\n",
    "UTF-8": OK + b"na\xc3\xafve: \xe2\x82\xac\r\nContent-Length: 5\r\n\r\n",
    "control bytes": b"HTTP/1.1 200 \x01\r\nX: a\x00b\x07c\rd\x7f\r\nContent-Length: 5\r\n\r\n",
    "equal lengths": OK + b"Content-Length: 5\r\ncontent-length: 05\r\n\r\n",
    "a list of equal lengths": OK + b"Content-Length: 5, 5\r\n\r\n",
    "identity": OK + b"Transfer-Encoding: identity\r\nContent-Length: 5\r\n\r\n",
    "a field with a similar name": OK + b"X-Content-Length: 7\r\nContent-Length: 5\r\n\r\n",
    "many fields": OK + b"X: y\r\n" * 5_000 + b"Content-Length: 5\r\n\r\n",
    "300 KiB": OK + FIELD * 1_500 + b"Content-Length: 5\r\n\r\n",
    "one field of 300 KiB": OK + b"Set-Cookie: " + b"c" * 300_000 + b"\r\nContent-Length: 5\r\n\r\n",
    "a long line that is no field": OK + b"x y" * LINE_MAX + b"\r\nContent-Length: 5\r\n\r\n",
    "a long status line": b"HTTP/1.1 200 " + b"x" * LINE_MAX + b"\r\nContent-Length: 5\r\n\r\n",
    "a long field with a bare CR": OK + b"Content-Lengths: " + b"x" * LINE_MAX + b"\r!\r\nContent-Length: 5\r\n\r\n",
    "a folded field of 300 KiB": OK + b"X: y\r\n " + b"z" * 300_000 + b"\r\nContent-Length: 5\r\n\r\n",
}
DOUBTFUL = {
    "another protocol": b"SSH-2.0-x\r\n\r\n",
    "a short status": b"HTTP/1.1 20 OK\r\n\r\n",
    "a long status": b"HTTP/1.1 2000 OK\r\n\r\n",
    "a status below 100": b"HTTP/1.1 099 OK\r\n\r\n",
    "coding and length": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
    "length and coding": OK + b"Content-Length: 5\r\nTransfer-Encoding: gzip\r\n\r\n",
    "lengths that differ": OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
    "a list of lengths that differ": OK + b"Content-Length: 5, 6\r\n\r\n",
    "a length with a sign": OK + b"Content-Length: +5\r\n\r\n",
    "a long length": OK + b"Content-Length: 99999999999999999999\r\n\r\n",
    "no length": OK + b"Content-Length:\r\n\r\n",
    "chunked twice": OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n",
    "chunked first": OK + b"Transfer-Encoding: chunked, gzip\r\n\r\n",
    "a malformed coding": OK + b"Transfer-Encoding: \x0bchunked\r\n\r\n",
    "a folded length": OK + b"Content-Length: 5\r\n 0\r\n\r\n",
    "a folded coding": OK + b"Transfer-Encoding:\r\n chunked\r\n\r\n",
    "a length folded into the status line": OK + b" Content-Length: 5\r\n\r\n",
    "a space before the colon": OK + b"Content-Length : 5\r\n\r\n",
    "a length behind a bare CR": OK + b"X: a\rContent-Length: 5\r\n\r\n",
    "a bare CR that could end the head": OK + b"Content-Length: 5\r\n\r\r\n\r\n",
    "HTTP/1.0 with a coding": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a long length field": OK + b"Content-Length: " + b" " * LINE_MAX + b"5\r\n\r\n",
    "a length behind a bare CR in a long field": OK + b"X: " + b"y" * LINE_MAX + b"\rContent-Length: 5\r\n\r\n",
    "a length in a long line that is no field": OK + b"x" * LINE_MAX + b" Content-Length: 5\r\n\r\n",
}


@pytest.mark.parametrize("piece", [0, 1, 7, 16_384])
@pytest.mark.parametrize("case", LENIENT)
def test_a_head_whose_length_is_in_no_doubt_is_framed(case: str, piece: int) -> None:
    head = LENIENT[case]
    assert framed(head + b"hello", piece=piece) == Framed(len(head), int(head.split()[1]), lib.BODY_LENGTH, 5, True)


@pytest.mark.parametrize("piece", [0, 1_013])
@pytest.mark.parametrize("case", DOUBTFUL)
def test_a_head_that_two_clients_could_read_differently_is_in_doubt(case: str, piece: int) -> None:
    head = DOUBTFUL[case]
    assert framed(head, piece=piece) == "doubt"
    if head.startswith(OK) and len(head) < LINE_MAX and b"\r\r" not in head:  # without a body its length is in no doubt
        assert framed(head, to_head=True) == Framed(len(head), 200, lib.BODY_NONE, 0, True)
        closing = head.replace(OK, OK + b"Connection: close\r\nX: y\r\n")
        if "folded into" not in case:
            assert framed(closing) == Framed(len(closing), 200, lib.BODY_UNTIL_CLOSE, 0, False)


@pytest.mark.parametrize(
    ("head", "to_head", "body"),
    [
        (OK + b"Content-Length: 2\r\n\r\n", False, lib.BODY_LENGTH),
        (OK + b"Content-Length: 2\r\n\r\n", True, lib.BODY_NONE),
        (OK + b"Content-Length: 0\r\n\r\n", False, lib.BODY_NONE),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n", False, lib.BODY_NONE),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", False, lib.BODY_NONE),
        (b"HTTP/1.1 100 Continue\r\n\r\n", False, lib.BODY_NONE),
        (b"HTTP/1.1 200\r\nTransfer-Encoding: Chunked\r\n\r\n", False, lib.BODY_CHUNKED),
        (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n", False, lib.BODY_CHUNKED),
        (OK + b"Transfer-Encoding: gzip\r\n\r\n", False, lib.BODY_UNTIL_CLOSE),
        (OK + b"\r\n", False, lib.BODY_UNTIL_CLOSE),
        (b"ICY 200 OK\r\nicy-name: x\r\n\r\n", False, lib.BODY_UNTIL_CLOSE),
    ],
)
def test_a_response_is_framed_by_its_fields_and_its_request(head: bytes, to_head: bool, body: int) -> None:
    result = framed(head, to_head)
    assert isinstance(result, Framed)
    assert (result.body, result.length) == (body, len(head))


@pytest.mark.parametrize(
    ("head", "persists"),
    [
        (OK, True),
        (OK + b"Connection: close\r\n", False),
        (OK + b"Connection: x, Close\r\n", False),
        (OK + b"Connection: x,\r\n close\r\n", False),
        (b"HTTP/1.0 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n", True),
    ],
)
def test_a_connection_persists_as_the_response_says(head: bytes, persists: bool) -> None:
    result = framed(head + b"Content-Length: 1\r\n\r\n")
    assert isinstance(result, Framed)
    assert result.keep_alive == persists
