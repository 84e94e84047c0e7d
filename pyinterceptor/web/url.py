"""The URL of a request, parsed once. Pure. http and https only. https://url.spec.whatwg.org/, RFC 3986."""

from __future__ import annotations

import ipaddress
import re
from typing import Any
from urllib.parse import parse_qs, quote, urljoin

import idna

PORTS = {"http": 80, "https": 443}
ABSOLUTE = re.compile(r"(https?)://([^/?#]*)([^#]*)", re.IGNORECASE)
AUTHORITY = re.compile(r"(\[[^]]*]|[^:]*)(?::([0-9]{0,5}))?")
HOST = re.compile(r"[a-z0-9._~!$&'()*+,;=%-]+")  # reg-name, RFC 3986 section 3.2.2
# "." and ".." as segments of a path, with each dot written as it is or as %2e (URL standard, section 4.1)
DOT = re.compile(r"\.|%2e", re.IGNORECASE)
DOTS = re.compile(r"(?:\.|%2e){2}", re.IGNORECASE)
MAY_HAVE_DOTS = re.compile(r"[/\\](?:\.|%2e)|\\", re.IGNORECASE)
ASCII = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"  # characters that are not percent-encoded, besides letters and digits


class URL:
    """An immutable URL. `str(url)` omits the fragment.

    The path is normalised as the URL standard does: its segments `.` and `..` are resolved, also if their dots are
    written as `%2e`, and a backslash is a slash. Other percent-encoding is kept as it was given.

    Raises ValueError if it isn't an absolute http or https URL, or contains a user name; TypeError if it is not a str.
    """

    __slots__ = ("_host", "_port", "_scheme", "_target")

    def __init__(self, url: str | URL) -> None:
        if isinstance(url, URL):
            self._scheme, self._host, self._port, self._target = url.scheme, url.host, url.port, url.target
            return
        match = ABSOLUTE.match(_checked(url))
        if match is None:
            raise ValueError(f"{url} is not an absolute http or https URL")
        scheme, target = match[1].lower(), match[3]
        host, port = _authority(match[2], url)
        if not target.startswith("/"):
            target = f"/{target}"
        self._scheme, self._host, self._target = scheme, host, _normalised(quote(target, ASCII))
        self._port = PORTS[scheme] if port is None else port

    @classmethod
    def parsed(cls, scheme: str, host: str, port: int, target: str) -> URL:
        """Makes a URL of parts that a strict parser has checked; only the path is normalised."""
        url = cls.__new__(cls)
        url._scheme, url._host, url._port, url._target = scheme, host, port, _normalised(target)
        return url

    @property
    def scheme(self) -> str:
        """`http` or `https`."""
        return self._scheme

    @property
    def host(self) -> str:
        """The host in lower case, without brackets."""
        return self._host

    @property
    def port(self) -> int:
        """The port of the URL, or the default port of its scheme."""
        return self._port

    @property
    def target(self) -> str:
        """Path and query as a request line has them, or "*" (RFC 9112 section 3.2)."""
        return self._target

    @property
    def path(self) -> str:
        """The target up to the question mark."""
        return "/" if self.target == "*" else self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """The target after the question mark; "" if it has none."""
        return self.target.partition("?")[2]

    @property
    def search_params(self) -> dict[str, list[str]]:
        """The decoded query: all values of each name."""
        return parse_qs(self.query, keep_blank_values=True)

    @property
    def authority(self) -> str:
        """`host[:port]` as in a Host field, without the scheme's default port (RFC 9110 section 7.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    def join(self, reference: str) -> URL:
        """Resolves a reference against this URL (RFC 3986 section 5)."""
        return URL(urljoin(str(self), reference))

    def __str__(self) -> str:
        target = "" if self.target == "*" else self.target
        return f"{self.scheme}://{self.authority}{target}"

    def __repr__(self) -> str:
        return f"URL({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, URL) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))


def _normalised(target: str) -> str:
    """Returns the target with a normalised path (URL standard, "path state")."""
    path, mark, query = target.partition("?")
    if not MAY_HAVE_DOTS.search(path):
        return target
    segments = path.replace("\\", "/").split("/")[1:]
    kept: list[str] = []
    for segment in segments:
        if DOTS.fullmatch(segment):
            del kept[-1:]
        elif not DOT.fullmatch(segment):
            kept.append(segment)
    if DOT.fullmatch(segments[-1]) or DOTS.fullmatch(segments[-1]):
        kept.append("")  # `/a/..` is a directory, `/`
    return f"/{'/'.join(kept)}{mark}{query}"


def split_host(authority: str) -> tuple[str, int | None]:
    """Returns the host of a Host field, in lower case without brackets, and its port; None if it has no port.

    Raises ValueError if the field is not a host with an optional port.
    """
    match = AUTHORITY.fullmatch(authority)
    if match is None or int(match[2] or 0) > 65535:
        raise ValueError(f"{authority!r} is not a host with a port")
    host = match[1].lower()
    if host.startswith("["):
        host = str(ipaddress.IPv6Address(host[1:-1]))
    elif not host.isascii():
        host = idna.encode(host, uts46=True).decode("ascii")
    elif not HOST.fullmatch(host):
        raise ValueError(f"{authority!r} is not a host")
    return host, int(match[2]) if match[2] else None


def _authority(text: str, url: str) -> tuple[str, int | None]:
    if "@" in text:
        raise ValueError(f"{url} has a user's name in it; send it in an Authorization field")
    try:
        return split_host(text)
    except ValueError as error:  # idna.IDNAError included
        raise ValueError(f"{url} is not an absolute http or https URL: {error}") from error


def _checked(url: Any) -> str:
    """Returns the URL. One with a space or control character is refused instead of corrected."""
    if not isinstance(url, str):
        raise TypeError(f"a URL is a str, not {type(url).__name__}: {url!r}")
    if any(character <= " " or character == "\x7f" for character in url):
        raise ValueError(f"{url!r} has a space or control character")
    return url
