"""What a container asked for. Pure."""

from __future__ import annotations

from typing import Any

from pyinterceptor.web.body import Body, Content
from pyinterceptor.web.headers import TOKEN, Headers, Source
from pyinterceptor.web.url import URL

COMMON = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT"})  # Fetch standard, "normalize a method"

Place = tuple[str, str, int, str]  # scheme, host, port, target, as URL.parsed() takes them


class Request:
    """`method`, `url`, `headers`, `body`; `await request.text()`, `.json()`, `.bytes()` read the body, once.

    `target` is what a container's own request line said; None for a request that was made here.
    """

    __slots__ = ("_body", "_headers", "_lines", "_place", "_url", "method", "target")

    method: str
    target: str | None
    _url: URL | None
    _headers: Headers | None
    _body: Body | None
    _place: Place
    _lines: str

    def __init__(
        self,
        url: str | URL,
        method: str = "GET",
        headers: Source | Headers | None = None,
        body: Content | Body = None,
    ) -> None:
        self._url = url if isinstance(url, URL) else URL(url)
        self.method = _checked(method)
        self._headers = Headers(headers)
        self._body = body if isinstance(body, Body) else Body(body)
        self.target = None

    @classmethod
    def incoming(cls, method: str, target: str, place: Place, lines: str, body: Body | None) -> Request:
        """A container's own, read by a strict parser. Its parts are made when they are asked for.

        `place` is what its URL is made of; `lines` are those of its fields; None as a body: it has none.
        """
        request = cls.__new__(cls)
        request.method, request.target = method, target
        request._place, request._lines = place, lines
        request._url, request._headers, request._body = None, None, body
        return request

    @property
    def url(self) -> URL:
        if self._url is None:
            self._url = URL.parsed(*self._place)
        return self._url

    @url.setter
    def url(self, url: str | URL) -> None:
        self._url = URL(url)

    @property
    def host(self) -> str:
        """That of the URL."""
        return self._place[1] if self._url is None else self._url.host

    @property
    def headers(self) -> Headers:
        if self._headers is None:
            self._headers = Headers.read(self._lines)
        return self._headers

    @headers.setter
    def headers(self, headers: Source | Headers) -> None:
        self._headers = Headers(headers)

    @property
    def body(self) -> Body:
        if self._body is None:
            self._body = Body()
        return self._body

    @body.setter
    def body(self, body: Content | Body) -> None:
        self._body = body if isinstance(body, Body) else Body(body)

    async def bytes(self) -> bytes:
        return await self.body.bytes()

    async def text(self) -> str:
        return await self.body.text()

    async def json(self) -> Any:
        return await self.body.json()

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.url}>"


def _checked(method: str) -> str:
    """Upper case where it is a common one, as the Fetch standard has it. Raises: ValueError for what is no token."""
    if not TOKEN.fullmatch(method):
        raise ValueError(f"{method!r} is not a method")
    return method.upper() if method.upper() in COMMON else method
