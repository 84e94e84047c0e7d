"""Parses an origin's response: bytes in, a head and body chunks out.

No I/O. A `ReplyParser` reads one response, skips interim ones (1xx), and determines whether the connection can be
reused. Invalid bytes raise `PeerError` and nothing else.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import httptools

from pyinterceptor.errors import PeerError
from pyinterceptor.http.fields import upgrade_of
from pyinterceptor.web.headers import connection_options

# Bytes of status line, headers and interim responses together; curl accepts 300 KiB, browsers 256 KiB.
MAX_HEAD = 256 * 1024
BAD_GATEWAY = 502
BODILESS = frozenset({101, 204, 304})  # RFC 9112 section 6.3


@dataclass(frozen=True, slots=True)
class ReplyHead:
    """The head of a response. `fields` are as received. `length` is that of the body in bytes; None if unknown."""

    status: int
    fields: tuple[tuple[str, str], ...]
    length: int | None
    ends_with_connection: bool
    keeps_alive: bool


class ReplyParser:
    """Parses the response to one request with this `method`.

    `head` is None until it is complete. `chunks` receives the body's bytes. `is_done` is True once the response has
    ended. `may_switch`: the request has asked for another protocol, so the response may be a 101.
    """

    def __init__(self, method: str, *, may_switch: bool = False) -> None:
        self.surplus = b""  # bytes after a 101 (Switching Protocols)
        self._may_switch = may_switch
        self.head: ReplyHead | None = None
        self.chunks: deque[bytes] = deque()
        self.received = 0  # bytes of the body
        self.is_done = False
        self._is_bodiless = method == "HEAD"
        self._is_interim = False
        self._has_surplus = False
        self._before_head = 0  # bytes
        self._fields: list[tuple[str, str]] = []
        self._parser = httptools.HttpResponseParser(self)

    @property
    def is_reusable(self) -> bool:
        """Whether the connection can be reused: the response is complete, permits it, and no bytes follow it."""
        head = self.head
        return (
            head is not None
            and self.is_done
            and head.keeps_alive
            and not head.ends_with_connection
            and not self._has_surplus
        )

    def feed(self, data: bytes) -> None:
        """Parses bytes from the origin. Bytes after the response are ignored, but prevent the connection's reuse.

        Raises PeerError if the bytes are not valid HTTP/1, or the head is too large.
        """
        if self.is_done:
            self._has_surplus = self._has_surplus or bool(data)
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as error:
            self.surplus = data[error.args[0] :]
            self._has_surplus = True
        except httptools.HttpParserError as error:
            if self.is_done:
                self._has_surplus = True
                return
            if isinstance(error.__context__, PeerError):
                raise error.__context__ from None
            raise PeerError(f"not a valid HTTP/1.1 response: {error}", BAD_GATEWAY) from error
        if self.head is None:
            self._before_head += len(data)
            if self._before_head > MAX_HEAD:
                raise PeerError(f"response headers larger than {MAX_HEAD} bytes", BAD_GATEWAY)

    def feed_eof(self) -> None:
        """Handles the end of the origin's stream. Raises PeerError if the response isn't complete."""
        if self.is_done:
            return
        if self.head is None:
            raise PeerError("connection closed before a response", BAD_GATEWAY)
        if not self.head.ends_with_connection:
            whole = "" if self.head.length is None else f" of {self.head.length}"
            raise PeerError(f"response body cut off after {self.received}{whole} bytes", BAD_GATEWAY)
        self.is_done = True

    def take(self) -> bytes:
        """Removes the chunks received so far and returns them as one."""
        taken = b"".join(self.chunks)
        self.chunks.clear()
        return taken

    def pass_by(self, count: int) -> None:
        """Counts `count` bytes of a body of known length that bypassed the parser."""
        assert self.head is not None
        self.received += count
        self.is_done = self.received == self.head.length

    # Called by httptools.

    def on_message_begin(self) -> None:
        if self.head is not None:
            self._has_surplus = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head is None:  # trailers are dropped (RFC 9110 section 6.5.1)
            self._fields.append((name.decode("latin-1"), (value or b"").decode("latin-1").strip(" \t")))

    def on_headers_complete(self) -> None:
        if self.head is not None:
            return
        status = self._parser.get_status_code()
        if status == 101 and not (self._may_switch and upgrade_of(self._fields)):
            raise PeerError("the origin switched protocols, but the request didn't ask for it", BAD_GATEWAY)
        if 100 <= status < 200 and status != 101:
            self._is_interim = True
            self._fields.clear()
            return
        self._is_bodiless = self._is_bodiless or status in BODILESS
        self.head = _head(status, self._fields, self._is_bodiless, self._parser.get_http_version())
        self.is_done = self._is_bodiless

    def on_body(self, data: bytes) -> None:
        if self.is_done:
            self._has_surplus = True
            return
        self.received += len(data)
        self.chunks.append(data)

    def on_message_complete(self) -> None:
        if self._is_interim:
            self._is_interim = False
        else:
            self.is_done = True


def _head(status: int, fields: list[tuple[str, str]], is_bodiless: bool, version: str) -> ReplyHead:
    """Returns the head. llhttp has already refused conflicting lengths (RFC 9112 section 6.3).

    Raises PeerError if the version or transfer coding is unsupported.
    """
    lengths = [value for name, value in fields if name.lower() == "content-length"]
    codings = [value.lower() for name, value in fields if name.lower() == "transfer-encoding"]
    if version not in ("1.0", "1.1"):
        raise PeerError(f"unsupported response version HTTP/{version}", BAD_GATEWAY)
    if codings and (codings != ["chunked"] or version == "1.0"):
        raise PeerError(f"unsupported transfer coding of a response: {', '.join(codings)}", BAD_GATEWAY)
    if is_bodiless:
        length: int | None = 0
    else:
        length = int(lengths[0]) if lengths else None
    connection = connection_options(fields)
    return ReplyHead(
        status,
        tuple(fields),
        length,
        ends_with_connection=length is None and not codings,
        keeps_alive="close" not in connection and (version != "1.0" or "keep-alive" in connection),
    )
