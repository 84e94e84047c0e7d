"""Following requests and responses, message by message: pure C, fed whole, byte by byte, and with a tail."""

from __future__ import annotations

from typing import Any

import pytest
from pyinterceptor._relay import ffi, lib

GET = b"GET /a HTTP/1.1\r\nHost: a.test\r\n\r\n"
HEAD = b"HEAD /a HTTP/1.1\r\nHost: a.test\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\n"
PUT = b"PUT /a HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKS = b"3;x=y\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nTrailer: t\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ALL = 2**64 - 1


class Following:
    """A followed flow. `pass_…` moves the bytes of one direction as flow.c does, and returns those that passed."""

    def __init__(self, first: bytes) -> None:
        self.follow = ffi.new("struct follow *")
        self.frame = ffi.new("struct frame *")
        assert lib.frame_request(ffi.new("struct head *"), first, len(first), self.frame) == lib.READING_WHOLE
        self.allowed = lib.follow_begin(self.follow, self.frame)
        self.reading = ffi.new("enum reading *")

    def _look(self, look: Any, data: bytes, is_end: bool) -> tuple[int, int]:
        allowed = ffi.new("uint64_t *")
        return int(look(data, len(data), is_end, allowed)), int(allowed[0])

    def request(self, data: bytes, is_end: bool = False) -> tuple[int, int]:
        def look(*arguments: Any) -> Any:
            return lib.follow_request(self.follow, *arguments, self.reading, self.frame)

        return self._look(look, data, is_end)

    def response(self, data: bytes, is_end: bool = False) -> tuple[int, int]:
        def look(*arguments: Any) -> Any:
            return lib.follow_response(self.follow, *arguments)

        return self._look(look, data, is_end)

    def response_in_pieces(self, data: bytes, piece: int) -> tuple[int, int]:
        """Feeds data in pieces. Returns the last result, and the count of bytes that passed."""
        passed, allowed, followed = 0, 0, lib.FOLLOWED_MORE
        for end in range(piece, len(data) + piece, piece):
            while passed < len(data[:end]):
                if allowed == 0:
                    lib.follow_response_passed(self.follow)
                    followed, allowed = self.response(data[passed:end])
                    if followed != lib.FOLLOWED_PASS:
                        break
                taken = min(allowed, len(data[passed:end]))
                passed, allowed = passed + taken, allowed - taken
            else:
                continue
            if followed != lib.FOLLOWED_MORE:
                return followed, passed
        lib.follow_response_passed(self.follow)
        return followed, passed


@pytest.mark.parametrize("piece", [1, 7, 10_000])
@pytest.mark.parametrize(
    ("first", "response"),
    [
        (GET, OK + b"ok"),
        (GET, CHUNKED + CHUNKS),
        (HEAD, b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"),
        (GET, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 100000\r\n\r\n"),
        (GET, b"HTTP/1.1 204 No Content\r\n\r\n"),
        (GET, b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK + b"ok"),
    ],
)
def test_a_response_passes_to_its_last_byte_and_the_next_request_is_expected(
    first: bytes, response: bytes, piece: int
) -> None:
    following = Following(first)
    lib.follow_request_passed(following.follow)
    assert not lib.follow_expects_request(following.follow)
    assert following.response_in_pieces(response, piece) == (lib.FOLLOWED_PASS, len(response))
    lib.follow_request_passed(following.follow)
    assert lib.follow_expects_request(following.follow)


def test_no_byte_behind_a_response_passes_with_it() -> None:
    assert Following(GET).response(OK + b"ok" + OK) == (lib.FOLLOWED_PASS, len(OK) + 2)
    assert Following(HEAD).response(OK + OK) == (lib.FOLLOWED_PASS, len(OK))


def test_a_request_passes_with_its_body_and_no_byte_more() -> None:
    assert Following(GET).allowed == len(GET)
    assert Following(POST).allowed == len(POST) + 5
    following = Following(PUT)
    assert following.allowed == len(PUT)
    lib.follow_request_passed(following.follow)
    assert lib.follow_expects_request(following.follow)
    assert following.request(CHUNKS + GET) == (lib.FOLLOWED_PASS, len(CHUNKS))


@pytest.mark.parametrize("piece", [1, 7, 10_000])
def test_the_next_request_is_decided_when_its_head_is_complete(piece: int) -> None:
    following = Following(GET)
    lib.follow_request_passed(following.follow)
    assert following.response_in_pieces(OK + b"ok", 10_000) == (lib.FOLLOWED_PASS, len(OK) + 2)
    lib.follow_request_passed(following.follow)
    for end in range(piece, len(POST), piece):
        assert following.request(POST[:end])[0] == lib.FOLLOWED_MORE
    assert following.request(POST + b"hello" + GET)[0] == lib.FOLLOWED_REQUEST
    assert following.reading[0] == lib.READING_WHOLE
    assert lib.follow_pass_request(following.follow, following.frame) == len(POST) + 5


def test_a_head_that_ends_with_its_connection_is_decided_as_it_is() -> None:
    following = Following(GET)
    lib.follow_request_passed(following.follow)
    following.response_in_pieces(OK + b"ok", 10_000)
    lib.follow_request_passed(following.follow)
    assert following.request(GET[:9], is_end=True)[0] == lib.FOLLOWED_REQUEST
    assert following.reading[0] == lib.READING_MORE


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
        b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
        b"ICY 200 OK\r\n\r\nuntil the end",
    ],
)
def test_no_request_follows_a_response_that_ends_with_the_close(response: bytes) -> None:
    following = Following(GET)
    lib.follow_request_passed(following.follow)
    assert following.response(response) == (lib.FOLLOWED_PASS, ALL)
    lib.follow_request_passed(following.follow)
    assert not lib.follow_expects_request(following.follow)


@pytest.mark.parametrize("piece", [1, 10_000])
def test_an_empty_line_behind_a_response_passes_and_the_next_request_is_expected(piece: int) -> None:
    following = Following(GET)
    lib.follow_request_passed(following.follow)
    behind = b"\r\n\n\r\n"
    assert following.response_in_pieces(OK + b"ok" + behind, piece) == (lib.FOLLOWED_PASS, len(OK) + 2 + len(behind))
    lib.follow_request_passed(following.follow)
    assert following.request(GET)[0] == lib.FOLLOWED_REQUEST
    lib.follow_pass_request(following.follow, following.frame)
    assert following.response_in_pieces(b"\r\n" + OK + b"ok", piece) == (lib.FOLLOWED_PASS, 2 + len(OK) + 2)
    lib.follow_request_passed(following.follow)
    assert lib.follow_expects_request(following.follow)


@pytest.mark.parametrize("response", [OK + b"ok", b"HTTP/1.1 204 No Content\r\n\r\n", CHUNKED + CHUNKS])
def test_an_empty_line_that_comes_with_a_response_passes_with_it(response: bytes) -> None:
    following = Following(GET)
    head = len(CHUNKED) if response.startswith(CHUNKED) else 0
    if head:
        assert following.response(response + b"\r\n") == (lib.FOLLOWED_PASS, head)
    assert following.response(response[head:] + b"\r\n" + OK) == (lib.FOLLOWED_PASS, len(response) - head + 2)


@pytest.mark.parametrize("piece", [1, 1_013, 16_384])
def test_a_long_head_passes_as_it_comes(piece: int) -> None:
    head = b"HTTP/1.1 200 OK\nX: y\n folded\nbad name: x\n" + b"Y: " + b"z" * 20_000 + b"\n"
    head += b"X-Field: value\r\n" * (20_000 if piece > 1 else 20) + b"Content-Length: 2\n\n"
    following = Following(GET)
    lib.follow_request_passed(following.follow)
    assert following.response_in_pieces(head + b"ok", piece) == (lib.FOLLOWED_PASS, len(head) + 2)
    assert following.follow.status == 200
    lib.follow_request_passed(following.follow)
    assert lib.follow_expects_request(following.follow)


def test_a_server_s_last_words_without_a_request_are_unframed() -> None:
    following = Following(GET)
    lib.follow_request_passed(following.follow)
    following.response_in_pieces(OK + b"ok", 10_000)
    assert following.response(b"HTTP/1.1 408 Request Timeout\r\n\r\n")[0] == lib.FOLLOWED_UNFRAMED
    lib.follow_in_doubt(following.follow)
    lib.follow_request_passed(following.follow)
    assert not lib.follow_expects_request(following.follow)
    assert lib.follow_is_over(following.follow)


def test_a_doubt_behind_the_last_response_passes_until_the_close() -> None:
    following = Following(GET)
    lib.follow_request_passed(following.follow)
    following.response_in_pieces(OK.replace(b"\r\n", b"\r\nConnection: close\r\n", 1) + b"ok", 10_000)
    assert lib.follow_is_over(following.follow)
    assert following.response(b"more") == (lib.FOLLOWED_PASS, ALL)


@pytest.mark.parametrize("size", [b"3  ", b" 3", b"003"])
def test_padded_chunk_sizes_are_framed(size: bytes) -> None:
    following = Following(GET)
    lib.follow_request_passed(following.follow)
    response = CHUNKED + size + b"\r\nabc\r\n0 \r\nBad Trailer: x\r\n\r\n"
    assert following.response_in_pieces(response, 1) == (lib.FOLLOWED_PASS, len(response))
    lib.follow_request_passed(following.follow)
    assert lib.follow_expects_request(following.follow)


def test_a_connection_is_over_after_its_last_exchange_or_a_doubt() -> None:
    following = Following(POST)
    assert not lib.follow_is_over(following.follow)
    lib.follow_in_doubt(following.follow)
    assert not lib.follow_is_over(following.follow)  # its request still passes
    lib.follow_request_passed(following.follow)
    assert lib.follow_is_over(following.follow)
    following = Following(GET)
    lib.follow_request_passed(following.follow)
    following.response(b"HTTP/1.1 200 OK\r\n\r\n")
    assert lib.follow_is_last_passed(following.follow)
    assert not lib.follow_is_over(following.follow)  # the server ends it


@pytest.mark.parametrize("piece", [1, 10_000])
@pytest.mark.parametrize(
    "response",
    [
        b"HELLO 200 OK\r\n\r\nx",
        CHUNKED + b"not a chunk\r\n",
        CHUNKED + b"3\nabc\n0\n\n",
        CHUNKED.replace(b"\r\n", b"\r\nContent-Length: 5\r\n", 1) + CHUNKS,
    ],
)
def test_a_response_without_a_certain_end_is_unframed(response: bytes, piece: int) -> None:
    assert Following(GET).response_in_pieces(response, piece)[0] == lib.FOLLOWED_UNFRAMED


def test_a_request_body_without_a_certain_end_is_unframed() -> None:
    following = Following(PUT)
    lib.follow_request_passed(following.follow)
    assert following.request(b"zz\r\n")[0] == lib.FOLLOWED_UNFRAMED


def test_a_switched_protocol_is_reported() -> None:
    switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    assert Following(GET).response(switched + b"\x81\x02hi")[0] == lib.FOLLOWED_SWITCHED
