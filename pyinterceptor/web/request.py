"""A request: a container's own, or one that a handler made. Pure."""

from __future__ import annotations

from typing import Any

from pyinterceptor.web.body import Body, Content
from pyinterceptor.web.headers import TOKEN, Headers, Source
from pyinterceptor.web.url import URL

COMMON = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT"})  # Fetch standard, "normalize a method"
WITHOUT_BODY = frozenset({"GET", "HEAD"})

Place = tuple[str, str, int, str]  # scheme, host, port, target, as URL.parsed() takes them


class Request:
    """A request. Its body can be read once: `await request.text()`, `.json()`, `.bytes()`, or from `body`.

    `Request(request, headers=…)` makes a copy with other headers, method or body, as in the Fetch standard. Unless a
    body is given, the copy takes that of the original, which can't be read any more. Pass the copy on with `fetch()`.

    `target` is the target of the container's own request line, also in a copy; None for any other request.

    Raises ValueError for an invalid method or URL; RuntimeError for a copy of a request whose
    body was read already; TypeError for a copy with a body whose method is set to GET or HEAD.
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
        url: str | URL | Request,
        method: str | None = None,
        headers: Source | Headers | None = None,
        body: Content | Body = None,
    ) -> None:
        if isinstance(url, Request):
            self._copy(url, method, headers, body)
        else:
            self._url, self.target = URL(url), None
            self.method = _checked("GET" if method is None else method)
            self._headers = Headers(headers)
            self._body = body if isinstance(body, Body) else Body(body)

    def _copy(
        self, original: Request, method: str | None, headers: Source | Headers | None, body: Content | Body
    ) -> None:
        """https://fetch.spec.whatwg.org/#dom-request, steps 6 to 43; a copy of a GET with a body keeps both."""
        self._url, self.target = original.url, original.target
        self.method = original.method if method is None else _checked(method)
        self._headers = Headers(original.headers if headers is None else headers)
        if body is not None:
            self._body = body if isinstance(body, Body) else Body(body)
        elif original.body.content == b"":
            self._body = None  # no body: it can't be used up
        elif method is not None and self.method in WITHOUT_BODY:
            raise TypeError(f"Request(request, {method!r}): a {method} has no body, the request has one; give body=b''")
        else:
            self._body = original.body.taken()

    @classmethod
    def incoming(cls, method: str, target: str, place: Place, lines: str, body: Body | None) -> Request:
        """Makes a container's own request, which a strict parser has read. URL and headers are parsed on first use.

        `place` has the parts of the URL, `lines` are the field lines; `body` is None if there is none.
        """
        request = cls.__new__(cls)
        request.method, request.target = method, target
        request._place, request._lines = place, lines
        request._url, request._headers, request._body = None, None, body
        return request

    @property
    def url(self) -> URL:
        """The absolute URL. An assigned str is parsed."""
        if self._url is None:
            self._url = URL.parsed(*self._place)
        return self._url

    @url.setter
    def url(self, url: str | URL) -> None:
        self._url = URL(url)

    @property
    def host(self) -> str:
        """The host of the URL, in lower case."""
        return self._place[1] if self._url is None else self._url.host

    @property
    def headers(self) -> Headers:
        """The header fields, which can be changed in place. An assigned mapping, or pairs, replaces them."""
        if self._headers is None:
            self._headers = Headers.read(self._lines)
        return self._headers

    @headers.setter
    def headers(self, headers: Source | Headers) -> None:
        self._headers = Headers(headers)

    @property
    def body(self) -> Body:
        """The body, which can be read once. Assigned bytes, str or an async iterable replace it."""
        if self._body is None:
            self._body = Body()
        return self._body

    @body.setter
    def body(self, body: Content | Body) -> None:
        self._body = body if isinstance(body, Body) else Body(body)

    async def bytes(self) -> bytes:
        """Returns the whole body. Raises RuntimeError if it was read already."""
        return await self.body.bytes()

    async def text(self) -> str:
        """Returns the whole body as UTF-8; invalid bytes are replaced."""
        return await self.body.text()

    async def json(self) -> Any:
        """Returns the whole body, parsed as JSON. Raises ValueError if it is not JSON."""
        return await self.body.json()

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.url}>"


def _checked(method: Any) -> str:
    """Returns the method, a common one in upper case (Fetch standard). Raises ValueError if it is not a token."""
    if not isinstance(method, str):
        raise TypeError(f"a method is a str, not {type(method).__name__}")
    if not TOKEN.fullmatch(method):
        raise ValueError(f"{method!r} is not a method")
    return str(method.upper() if method.upper() in COMMON else method)
