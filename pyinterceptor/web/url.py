"""A URL of a request, taken apart once. Pure. RFC 3986, http and https only."""

from __future__ import annotations

from typing import Any
from urllib.parse import SplitResult, parse_qs, urljoin, urlsplit

PORTS = {"http": 80, "https": 443}


class URL:
    """Immutable; `str(url)` is the whole. `path` and `query` stay percent-encoded, as they came.

    Raises: ValueError for what is no absolute http or https URL.
    """

    __slots__ = ("_split", "host", "port", "scheme")

    scheme: str
    host: str  # lower case, without brackets
    port: int

    def __init__(self, url: str | URL) -> None:
        split = url._split if isinstance(url, URL) else urlsplit(_checked(url))
        if split.scheme not in PORTS or not split.hostname:
            raise ValueError(f"{url!s} is not an absolute http or https URL")
        for name, value in (
            ("_split", split),
            ("scheme", split.scheme),
            ("host", split.hostname),
            ("port", PORTS[split.scheme] if split.port is None else split.port),
        ):
            object.__setattr__(self, name, value)

    _split: SplitResult

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("a URL can't be changed; make another")

    @property
    def path(self) -> str:
        return self._split.path or "/"

    @property
    def query(self) -> str:
        """What stands after the question mark."""
        return self._split.query

    @property
    def search_params(self) -> dict[str, list[str]]:
        """The query, decoded: every value of every name."""
        return parse_qs(self._split.query, keep_blank_values=True)

    @property
    def authority(self) -> str:
        """`host[:port]` as a Host field has it, the scheme's own port left out (RFC 9110 section 7.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def target(self) -> str:
        """Path and query, as a request line has them (RFC 9112 section 3.2.1)."""
        return f"{self.path}?{self.query}" if self.query else self.path

    def join(self, reference: str) -> URL:
        """The URL that a reference found at this one means (RFC 3986 section 5)."""
        return URL(urljoin(str(self), reference))

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"

    def __repr__(self) -> str:
        return f"URL({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, URL) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))


def _checked(url: str) -> str:
    """urlsplit() silently drops tabs and line ends; a URL that has them, or a space, is refused instead."""
    if any(character <= " " or character == "\x7f" for character in url):
        raise ValueError(f"{url!r} has a space or control character")
    return url
