"""Requests to origins: the bytes of a request's head, and the next request of a redirect.

Pure. Fields keep their order and spelling. Hop-by-hop fields are never forwarded, and the length is given only once.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyinterceptor.http.fields import HOP_BY_HOP, Fields
from pyinterceptor.web import URL
from pyinterceptor.web.headers import TOKEN
from pyinterceptor.web.url import split_host

SAYS_NO_BODY = frozenset({"POST", "PUT", "PATCH"})  # without a body: "content-length: 0" (RFC 9110 section 8.6)
REDIRECTS = frozenset({301, 302, 303, 307, 308})
OF_THE_MESSAGE = frozenset({"host", "content-length", "expect"})
OF_THE_BODY = frozenset({"content-encoding", "content-language", "content-location", "content-type"})
OF_THE_ORIGIN = frozenset({"authorization", "cookie", "proxy-authorization"})


def host_field(url: URL, given: str | None) -> str:
    """Returns the Host field for a request to this URL: the given one if it names the URL's host, with any port."""
    try:
        if given is not None and split_host(given)[0] == url.host:
            return given
    except ValueError:
        pass
    return url.authority


def request_head(
    method: str,
    target: str,
    host: str,
    fields: Fields,
    length: int | None,
    upgrade: str | None = None,
    *,
    closes: bool = False,
) -> bytes:
    """Returns the head of a request. Its body has `length` bytes, or is chunked if `length` is None.
    `closes`: the connection ends with the response, unless it is upgraded.

    Expect is not forwarded: our client reads the response while it sends, so it needs no 100 (Continue).

    Raises ValueError if the method is not a token.
    """
    if not TOKEN.fullmatch(method):
        raise ValueError(f"{method!r} is not a valid method")
    passed = [(name, value) for name, value in fields if name.lower() not in HOP_BY_HOP]
    names = {name.lower() for name, _ in passed}
    ours = {"host": host}
    if length is not None and (length or method in SAYS_NO_BODY or "content-length" in names):
        ours["content-length"] = str(length)
    lines = [f"{method} {target} HTTP/1.1"]
    if "host" not in names:
        lines.append(f"host: {ours.pop('host')}")
    for name, value in passed:
        lower = name.lower()
        if lower not in OF_THE_MESSAGE:
            lines.append(f"{name}: {value}")
        elif lower in ours:
            lines.append(f"{name}: {ours.pop(lower)}")
    lines += [f"{name}: {value}" for name, value in ours.items()]
    if length is None:
        lines.append("transfer-encoding: chunked")
    if upgrade is not None:
        lines += ["connection: upgrade", f"upgrade: {upgrade}"]
    elif closes:
        lines.append("connection: close")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


@dataclass(frozen=True, slots=True)
class Hop:
    """The next request after a redirect. It has the same body, unless `drops_body`."""

    url: URL
    method: str
    drops_body: bool


def hop_after(status: int, location: str | None, method: str, url: URL) -> Hop | None:
    """Returns the request that follows this response; None if it is no redirect. Fetch standard, HTTP-redirect fetch.

    Raises ValueError if Location is not an http or https URL.
    """
    if status not in REDIRECTS or location is None:
        return None
    becomes_get = (status in (301, 302) and method == "POST") or (status == 303 and method not in ("GET", "HEAD"))
    return Hop(url.join(location), "GET" if becomes_get else method, becomes_get)


def fields_after(fields: Fields, *, drops_body: bool, same_origin: bool) -> list[tuple[str, str]]:
    """Returns the fields of a request that are sent with the next request after a redirect."""
    dropped = set(OF_THE_MESSAGE)
    if drops_body:
        dropped |= OF_THE_BODY
    if not same_origin:
        dropped |= OF_THE_ORIGIN
    return [(name, value) for name, value in fields if name.lower() not in dropped]
