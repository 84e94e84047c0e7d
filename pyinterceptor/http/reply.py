"""Parses an origin's response: bytes in, a head and body chunks out.

No I/O. A `ReplyParser` reads one response, skips interim ones (1xx), and determines whether the connection can be
reused. Heads and chunk sizes are read as leniently as curl reads them, because a response is framed anew for its
client. Bytes whose meaning remains in doubt raise `PeerError`; nothing else is raised.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from pyinterceptor.errors import PeerError
from pyinterceptor.http.fields import upgrade_of
from pyinterceptor.web.headers import connection_options

# The default limit of a response's head, as much as curl accepts: bytes of the status line, headers and interim
# responses together, and again of the trailers.
MAX_HEAD = 300 * 1024
MAX_SIZE_LINE = 4096  # bytes of a chunk's size and extensions
BAD_GATEWAY = 502
BODILESS = frozenset({101, 204, 304})  # RFC 9112 section 6.3

BLANK_LINE = re.compile(rb"\n\r?\n")
BEGINNINGS = (b"HTTP/1.", b"ICY ")  # SHOUTcast servers send ICY instead of HTTP/1.0
STATUS_LINE = re.compile(r"(HTTP/1\.[01]|ICY) +([0-9]{3})(?: .*)?")
CHUNK_SIZE = re.compile(rb"[ \t]*([0-9a-fA-F]{1,15})[ \t]*(?:;[^\r\x00]*)?")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")

Field = tuple[str, str]


@dataclass(frozen=True, slots=True)
class ReplyHead:
    """The head of a response. `fields` are as received, each on one line. `length` is that of the body in bytes; None
    if unknown."""

    status: int
    fields: tuple[Field, ...]
    length: int | None
    is_chunked: bool
    keeps_alive: bool

    @property
    def ends_with_connection(self) -> bool:
        return self.length is None and not self.is_chunked


class ReplyParser:
    """Parses the response to one request with this `method`.

    `head` is None until it is complete. `chunks` receives the body's bytes. `is_done` is True once the response has
    ended; `trailers` are complete then. `may_switch`: the request has asked for another protocol, so the response may
    be a 101. `max_head` limits the bytes of the head.
    """

    # Each step takes bytes off `_held`, and returns False if it needs more:
    #
    #   head ─┬─> sized ──────────────────────────> done
    #         ├─> until close ───────── (EOF) ────> done
    #         └─> size ──> chunk ──> chunk's end ──> size
    #               └────> trailer ───────────────> done

    def __init__(self, method: str, *, may_switch: bool = False, max_head: int = MAX_HEAD) -> None:
        self.surplus = b""  # bytes after a 101 (Switching Protocols)
        self.head: ReplyHead | None = None
        self.chunks: deque[bytes] = deque()
        self.trailers: tuple[Field, ...] = ()
        self.received = 0  # bytes of the body
        self.is_done = False
        self._method = method
        self._may_switch = may_switch
        self._max_head = max_head
        self._has_surplus = False
        self._held = bytearray()
        self._searched = 0  # bytes of `_held` that hold no end of a head or line
        self._before_body = 0  # bytes of the heads before this one
        self._left = 0  # bytes of the chunk
        self._trailer_lines: list[bytes] = []
        self._trailer_bytes = 0
        self._step: Callable[[], bool] = self._read_head

    @property
    def is_reusable(self) -> bool:
        """Whether the connection can be reused: the response is complete, permits it, and no bytes follow it."""
        return self.is_done and self.head is not None and self.head.keeps_alive and not self._has_surplus

    def feed(self, data: bytes) -> None:
        """Parses bytes from the origin. Bytes after the response are ignored, but prevent the connection's reuse.

        Raises PeerError if the bytes are not valid HTTP/1, or the head is too large.
        """
        if not self.is_done:
            self._held += data
            while not self.is_done and self._step():
                pass
            data = bytes(self._held) if self.is_done else b""
            if self.is_done:
                self._held.clear()
        if data:
            self._has_surplus = True
            if self.head is not None and self.head.status == 101:
                self.surplus += data

    def feed_eof(self) -> None:
        """Handles the end of the origin's stream. Raises PeerError if the response isn't complete."""
        if self.is_done:
            return
        if self.head is None:
            why = "in the middle of the response's head" if self._held else "before a response"
            raise PeerError(f"connection closed {why}", BAD_GATEWAY)
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

    # The steps.

    def _read_head(self) -> bool:
        held = self._held
        if not self._searched:
            while held.startswith((b"\r", b"\n")):  # left by a sloppy response before
                del held[:1]
                self._before_body += 1
            if not any(held.startswith(form[: len(held)]) for form in BEGINNINGS):
                raise PeerError(f"not an HTTP/1.1 response: it begins with {bytes(held[:20])!r}", BAD_GATEWAY)
        end = BLANK_LINE.search(held, max(0, self._searched - 2))
        if self._before_body + (len(held) if end is None else end.end()) > self._max_head:
            raise PeerError(f"response headers larger than open_interceptor(fetch_head={self._max_head})", BAD_GATEWAY)
        if end is None:
            self._searched = len(held)
            return False
        lines = bytes(held[: end.start()]).split(b"\n")
        del held[: end.end()]
        self._before_body += end.end()
        self._searched = 0
        self._begin(lines)
        return True

    def _begin(self, lines: list[bytes]) -> None:
        """Chooses the step after this head."""
        version, status = _status(lines[0])
        fields = _fields(lines[1:])
        if status == 101 and not (self._may_switch and upgrade_of(fields)):
            raise PeerError("the origin switched protocols, but the request didn't ask for it", BAD_GATEWAY)
        if status < 200 and status != 101:
            return
        self.head = head = _head(version, status, fields, self._method == "HEAD" or status in BODILESS)
        self.is_done = head.length == 0
        if head.is_chunked:
            self._step = self._read_size
        else:
            self._step = self._read_until_close if head.length is None else self._read_sized

    def _read_sized(self) -> bool:
        assert self.head is not None
        assert self.head.length is not None
        self._keep(self.head.length - self.received)
        self.is_done = self.received == self.head.length
        return False

    def _read_until_close(self) -> bool:
        self._keep(len(self._held))
        return False

    def _read_size(self) -> bool:
        if (line := self._line(MAX_SIZE_LINE, "a chunk's size")) is None:
            return False
        size = CHUNK_SIZE.fullmatch(line)
        if size is None:
            raise PeerError(f"a chunk's size is malformed: {line[:20]!r}", BAD_GATEWAY)
        self._left = int(size[1], 16)
        self._step = self._read_chunk if self._left else self._read_trailer
        return True

    def _read_chunk(self) -> bool:
        self._left -= self._keep(self._left)
        if not self._left:
            self._step = self._read_chunk_end
        return not self._left

    def _read_chunk_end(self) -> bool:
        if (line := self._line(0, "a chunk")) is None:
            return False
        if line:
            raise PeerError("a chunk is longer than its size", BAD_GATEWAY)
        self._step = self._read_size
        return True

    def _read_trailer(self) -> bool:
        if (line := self._line(self._max_head - self._trailer_bytes, "the trailers")) is None:
            return False
        self._trailer_bytes += len(line) + 2
        if line:
            self._trailer_lines.append(line)
        else:
            self.trailers = tuple(_fields(self._trailer_lines))
            self.is_done = True
        return True

    def _keep(self, most: int) -> int:
        """Adds up to `most` bytes to the body. Returns their number."""
        if data := bytes(self._held[:most]):
            del self._held[: len(data)]
            self.received += len(data)
            self.chunks.append(data)
        return len(data)

    def _line(self, most: int, place: str) -> bytes | None:
        """Takes a line of up to `most` bytes, and returns it without its end; None if it is incomplete."""
        end = self._held.find(b"\n", self._searched)
        if (len(self._held) if end < 0 else end) > most + 1:
            raise PeerError(f"{place} is longer than its {most} bytes", BAD_GATEWAY)
        if end < 0:
            self._searched = len(self._held)
            return None
        line = bytes(self._held[:end])
        del self._held[: end + 1]
        self._searched = 0
        return line.removesuffix(b"\r")


def _status(line: bytes) -> tuple[str, int]:
    """Returns the version and the status code of a status line."""
    text = line.decode("latin-1").rstrip("\r")
    match = STATUS_LINE.fullmatch(text)
    if match is None or int(match[2]) < 100:
        raise PeerError(f"the status line is malformed: {text[:60]!r}", BAD_GATEWAY)
    return match[1], int(match[2])


def _fields(lines: list[bytes]) -> list[Field]:
    """Returns the fields of header lines. A folded value is joined by spaces, and a bare CR becomes a space (RFC 9112
    sections 2.2 and 5.2). Lines that are no field are dropped.

    Raises PeerError for a NUL byte.
    """
    fields: list[Field] = []
    for raw in lines:
        if b"\0" in raw:
            raise PeerError("a NUL byte in the response's headers", BAD_GATEWAY)
        line = raw.decode("latin-1").rstrip("\r").replace("\r", " ")
        if line[:1] in (" ", "\t"):
            if fields:
                name, value = fields[-1]
                fields[-1] = name, " ".join(filter(None, (value, line.strip(" \t"))))
            continue
        name, colon, value = line.partition(":")
        name = name.rstrip(" \t")
        if colon and name and not CONTROL.search(name):
            fields.append((name, value.strip(" \t")))
    return fields


def _head(version: str, status: int, fields: list[Field], is_bodiless: bool) -> ReplyHead:
    """Returns the head, with the body's framing as RFC 9112 section 6.3 has it: Transfer-Encoding overrides
    Content-Length. A connection on which both came is not reused.

    Raises PeerError if the transfer coding is unsupported, or lengths conflict.
    """
    codings = _list(fields, "transfer-encoding")
    lengths = _list(fields, "content-length")
    applied = [coding for coding in codings if coding != "identity"]
    if applied and applied != ["chunked"]:
        raise PeerError(f"unsupported transfer coding of a response: {', '.join(codings)}", BAD_GATEWAY)
    is_clear = not codings or (codings == ["chunked"] and not lengths and version == "HTTP/1.1")
    connection = connection_options(fields)
    keeps_alive = "close" not in connection and (version == "HTTP/1.1" or "keep-alive" in connection)
    length: int | None = 0
    is_chunked = bool(applied) and not is_bodiless
    if is_chunked:
        fields = [(name, value) for name, value in fields if name.lower() != "content-length"]
        length = None
    elif not is_bodiless:
        length = _length(lengths)
    return ReplyHead(
        status,
        tuple(fields),
        length,
        is_chunked,
        keeps_alive=keeps_alive and is_clear and (length is not None or is_chunked),
    )


def _list(fields: list[Field], name: str) -> list[str]:
    """Returns the elements of a field's comma-separated values, in lower case."""
    values = (value for given, value in fields if given.lower() == name)
    return [element.strip(" \t").lower() for value in values for element in value.split(",")]


def _length(values: list[str]) -> int | None:
    if not values:
        return None
    if len(set(values)) > 1 or not re.fullmatch("[0-9]{1,18}", values[0]):
        raise PeerError(f"the response's length is in doubt: {', '.join(values)[:60]!r}", BAD_GATEWAY)
    return int(values[0])
