"""What we answer a container: the bytes of a response's head, and how its body is framed. RFC 9112 section 6.

Pure. Whatever a handler put into its response, the head is one that every parser reads the same way.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Literal

from pyinterceptor.http.fields import HOP_BY_HOP
from pyinterceptor.web import Response
from pyinterceptor.web.headers import connection_options

# How the client finds the end of a response's body; "bare": there is none, whatever the head says of it.
Framing = Literal["bare", "length", "chunked", "until close"]

OURS = HOP_BY_HOP | {"content-length"}
WITHOUT_BODY = (204, 304)
STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus if status >= 200}


def framing(response: Response, *, to_head: bool, is_old: bool) -> Framing:
    """`to_head`: the request's method was HEAD; `is_old`: it came as HTTP/1.0."""
    if to_head or response.status in WITHOUT_BODY:
        return "bare"
    if response.body.length is not None:
        return "length"
    return "until close" if is_old else "chunked"


def asks_to_close(response: Response) -> bool:
    """Whether the handler asks for the end of the connection after this response."""
    return "connection" in response.headers and "close" in connection_options(response.headers.items())


def response_head(
    response: Response, framed: Framing, date: str, *, connection: str | None = None
) -> bytes:
    """The head with its blank line; `connection` is "close", "keep-alive" or None, where nothing need be said."""
    status, is_dated = response.status, False
    head = STATUS_LINES.get(status) or f"HTTP/1.1 {status} \r\n"
    for name, value in response.headers.items():
        lower = name.lower()
        if lower not in OURS:
            head += f"{name}: {value}\r\n"
            is_dated = is_dated or lower == "date"
    if not is_dated:
        head += f"date: {date}\r\n"
    if framed == "length":
        head += f"content-length: {response.body.length}\r\n"
    elif framed == "chunked":
        head += "transfer-encoding: chunked\r\n"
    elif framed == "bare" and (length := _length_elsewhere(response)) is not None:
        head += f"content-length: {length}\r\n"
    if connection is not None:
        head += f"connection: {connection}\r\n"
    return (head + "\r\n").encode("latin-1")


def _length_elsewhere(response: Response) -> str | None:
    """The length of the body that another request would get (RFC 9110 section 8.6), where it is known."""
    if response.status == 204:
        return None
    said = response.headers.getall("content-length")
    if len(said) == 1 and said[0].isascii() and said[0].isdigit():
        return said[0]
    return str(response.body.length) if response.body.length else None
