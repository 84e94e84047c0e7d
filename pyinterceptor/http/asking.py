"""What we ask an origin: the bytes of a request's head, and where a redirect leads.

Pure. Hop-by-hop fields never pass, Host is always the URL's own, a length is said once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pyinterceptor.http.reply import connection_options
from pyinterceptor.web import URL

Fields = list[tuple[str, str]]

# RFC 9110 section 7.6.1, and Expect: who reads a response while it sends needs no 100 (Continue).
HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-connection", "proxy-authorization", "proxy-authenticate", "te", "trailer"}
    | {"transfer-encoding", "upgrade", "expect"}
)
OURS = frozenset({"host", "content-length"})
SAYS_NO_BODY = frozenset({"POST", "PUT", "PATCH"})  # these say so when they have none (RFC 9110 section 8.6)
REDIRECTS = frozenset({301, 302, 303, 307, 308})
OF_THE_BODY = frozenset({"content-encoding", "content-language", "content-location", "content-type"})
OF_THE_ORIGIN = frozenset({"authorization", "cookie"})


def end_to_end(fields: Iterable[tuple[str, str]]) -> Fields:
    """The fields that are meant for the other end, without those that Connection names."""
    given = list(fields)
    dropped = HOP_BY_HOP | connection_options(given)
    return [(name, value) for name, value in given if name.lower() not in dropped]


def request_head(method: str, target: str, host: str, fields: Iterable[tuple[str, str]], length: int | None) -> bytes:
    """The head of a request whose body has `length` bytes; None: it will be chunked."""
    lines = [f"{method} {target} HTTP/1.1", f"host: {host}"]
    lines += [f"{name}: {value}" for name, value in end_to_end(fields) if name.lower() not in OURS]
    if length is None:
        lines.append("transfer-encoding: chunked")
    elif length or method in SAYS_NO_BODY:
        lines.append(f"content-length: {length}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


@dataclass(frozen=True, slots=True)
class Hop:
    """The request that follows a redirect; the body goes along unless `drops_body`."""

    url: URL
    method: str
    drops_body: bool


def hop_after(status: int, location: str | None, method: str, url: URL) -> Hop | None:
    """Where the response to a request leads; None where it is no redirect (Fetch standard, HTTP-redirect fetch).

    Raises: ValueError for a Location that is no http or https URL.
    """
    if status not in REDIRECTS or location is None:
        return None
    becomes_get = (status in (301, 302) and method == "POST") or (status == 303 and method not in ("GET", "HEAD"))
    return Hop(url.join(location), "GET" if becomes_get else method, becomes_get)


def fields_after(fields: Iterable[tuple[str, str]], *, drops_body: bool, same_origin: bool) -> Fields:
    """What of a request's fields goes along to the next hop."""
    dropped: set[str] = set(OURS)
    if drops_body:
        dropped |= OF_THE_BODY
    if not same_origin:
        dropped |= OF_THE_ORIGIN
    return [(name, value) for name, value in fields if name.lower() not in dropped]
