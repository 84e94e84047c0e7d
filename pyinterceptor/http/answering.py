"""What we answer a container: the bytes of a response's head, and how its body is framed. RFC 9112 section 6.

Pure. Whatever a handler put into its response, the head is one that every parser reads the same way.
"""

from __future__ import annotations

from enum import Enum
from http import HTTPStatus

from pyinterceptor.http.fields import HOP_BY_HOP, connection_options
from pyinterceptor.web import Headers, Response


class Framing(Enum):
    """How the client finds the end of a response's body."""

    BARE = 0  # there is none, whatever the head says of it
    LENGTH = 1
    CHUNKED = 2
    UNTIL_CLOSE = 3


OURS = HOP_BY_HOP | {"content-length"}
WITHOUT_BODY = (204, 304)
STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}" for status in HTTPStatus if status >= 200}


def framing(response: Response, *, to_head: bool, is_old: bool) -> Framing:
    """`to_head`: the request's method was HEAD; `is_old`: it came as HTTP/1.0."""
    if to_head or response.status in WITHOUT_BODY:
        return Framing.BARE
    if response.body.length is not None:
        return Framing.LENGTH
    return Framing.UNTIL_CLOSE if is_old else Framing.CHUNKED


def response_head(response: Response, framed: Framing, date: str, connection: str | None) -> bytes:
    """The head with its blank line; `connection` is "close", "keep-alive" or None, where nothing need be said."""
    status, headers = response.status, response.headers
    named = connection_options(headers.items()) if "connection" in headers else ()
    lines = [STATUS_LINES.get(status) or f"HTTP/1.1 {status} "]
    for name, value in headers.items():
        lower = name.lower()
        if lower not in OURS and lower not in named:
            lines.append(f"{name}: {value}")
    if "date" not in headers:
        lines.append(f"date: {date}")
    if framed is Framing.LENGTH:
        lines.append(f"content-length: {response.body.length}")
    elif framed is Framing.CHUNKED:
        lines.append("transfer-encoding: chunked")
    elif framed is Framing.BARE and (length := _length_elsewhere(response, headers)) is not None:
        lines.append(f"content-length: {length}")
    if connection is not None:
        lines.append(f"connection: {connection}")
    lines.append("\r\n")
    return "\r\n".join(lines).encode("latin-1")


def asks_to_close(response: Response) -> bool:
    """The handler wants the connection closed."""
    return "connection" in response.headers and "close" in connection_options(response.headers.items())


def _length_elsewhere(response: Response, headers: Headers) -> str | None:
    """The length of the body that another request would get (RFC 9110 section 8.6), where it is known."""
    if response.status == 204:
        return None
    said = headers.getall("content-length")
    if len(said) == 1 and said[0].isascii() and said[0].isdigit():
        return said[0]
    return str(len(response.body.content)) if response.body.content else None
