"""What an origin answers: bytes in, a head and body chunks out.

No I/O. One `ReplyParser` reads one response, skips interim ones (1xx) and says whether its connection may serve
another request. Bytes that break the protocol raise `PeerError`, nothing else.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import httptools

from pyinterceptor.errors import PeerError
from pyinterceptor.http.fields import connection_options, upgrade_of

# Bytes of status line, headers and interim responses together; curl takes 300 KiB, browsers 256 KiB.
MAX_HEAD = 256 * 1024
BAD_GATEWAY = 502
BODILESS = frozenset({101, 204, 304})  # RFC 9112 section 6.3


@dataclass(frozen=True, slots=True)
class ReplyHead:
    """Status and fields as they came; `length` of the body in bytes, None where it isn't said."""

    status: int
    fields: tuple[tuple[str, str], ...]
    length: int | None
    ends_with_connection: bool
    keeps_alive: bool


class ReplyParser:
    """Reads the response to one request of `method`.

    `head` appears when it is complete, `chunks` fill up with the body's bytes, `is_done` turns True at its end.
    `may_switch`: the request asked for another protocol, so the response may be a 101.
    """

    def __init__(self, method: str, *, may_switch: bool = False) -> None:
        self.surplus = b""  # what came behind a 101 (Switching Protocols)
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
        """The response has ended cleanly and nothing follows it: the connection may serve another request."""
        head = self.head
        return (
            head is not None
            and self.is_done
            and head.keeps_alive
            and not head.ends_with_connection
            and not self._has_surplus
        )

    def feed(self, data: bytes) -> None:
        """Takes bytes from the origin; what follows the response only makes the connection unfit for another.

        Raises: PeerError for what isn't HTTP/1 or is too much.
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
        """The origin has closed its side.

        Raises: PeerError where the response isn't complete.
        """
        if self.is_done:
            return
        if self.head is None:
            raise PeerError("connection closed before a response", BAD_GATEWAY)
        if not self.head.ends_with_connection:
            whole = "" if self.head.length is None else f" of {self.head.length}"
            raise PeerError(f"response body cut off after {self.received}{whole} bytes", BAD_GATEWAY)
        self.is_done = True

    def take(self) -> bytes:
        """The chunks that are here, as one."""
        taken = b"".join(self.chunks)
        self.chunks.clear()
        return taken

    def pass_by(self, count: int) -> None:
        """`count` bytes of a body of known length were read by someone else."""
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
            raise PeerError("the origin switched protocols unasked", BAD_GATEWAY)
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
    """llhttp has refused contradicting lengths by now (RFC 9112 section 6.3).

    Raises: PeerError for a version or transfer coding that we don't know.
    """
    lengths = [value for name, value in fields if name.lower() == "content-length"]
    codings = [value.lower() for name, value in fields if name.lower() == "transfer-encoding"]
    if version not in ("1.0", "1.1"):
        raise PeerError(f"a response in HTTP/{version}", BAD_GATEWAY)
    if codings and (codings != ["chunked"] or version == "1.0"):
        raise PeerError(f"a response with the transfer coding {', '.join(codings)}", BAD_GATEWAY)
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
