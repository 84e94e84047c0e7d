"""A response, fetched or made by a handler. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol, overload

from pyinterceptor.web.body import Body, Content
from pyinterceptor.web.headers import Headers, Source
from pyinterceptor.web.url import URL

TEXT = (("content-type", "text/plain; charset=utf-8"),)
REDIRECTS = frozenset({301, 302, 303, 307, 308})  # Fetch standard, "redirect status"


class MakesJson(Protocol):
    """The type of `Response.json`."""

    def __call__(self, value: Any, status: int = 200, headers: Source | Headers | None = None) -> Response: ...


class Json:
    """`json` of the class makes a response, `json` of a response reads its body, as in the Fetch standard."""

    @overload
    def __get__(self, response: None, owner: type[Response]) -> MakesJson: ...
    @overload
    def __get__(self, response: Response, owner: type[Response]) -> Callable[[], Coroutine[Any, Any, Any]]: ...
    def __get__(self, response: Response | None, owner: type[Response]) -> Any:
        return partial(_of_json, owner) if response is None else response.body.json


class Response:
    """`status`, `headers`, `body`. A str is sent as UTF-8 text unless a content-type is given.

    Raises ValueError for a status outside 200..599.
    """

    __slots__ = ("_body", "_headers", "_status")

    def __init__(self, body: Content | Body = None, status: int = 200, headers: Source | Headers | None = None) -> None:
        self._status = _checked(status)
        self._body = body if isinstance(body, Body) else Body(body)
        if headers is None:
            self._headers = Headers.parsed(TEXT if isinstance(body, str) else ())
        else:
            self._headers = Headers(headers)
            if isinstance(body, str) and "content-type" not in self._headers:
                self._headers.set(*TEXT[0])

    json = Json()
    """`Response.json(value, status=200, headers=None)` returns a response whose body is `value` as JSON; `await
    response.json()` returns the whole body, parsed as JSON. Raises ValueError if it is not JSON."""

    @classmethod
    def redirect(cls, url: str | URL, status: int = 302) -> Response:
        """Returns a redirect to an absolute URL. Raises ValueError for another URL, and for another status than 301,
        302, 303, 307 and 308."""
        if status not in REDIRECTS:
            raise ValueError(f"a redirect's status is one of {sorted(REDIRECTS)}, not {status!r}")
        return cls(None, status, {"location": str(URL(url))})

    @classmethod
    def fetched(cls, body: Body, status: int, headers: Headers) -> Response:
        """Makes the response of an origin, whose status may be any from 200 to 999. Takes the headers."""
        response = cls(body, headers=Headers.parsed(()))
        response._status, response._headers = status, headers
        return response

    # Assigned values are checked as in the constructor, so that a response can always be sent.

    @property
    def status(self) -> int:
        """The status code, 200 to 599; up to 999 if it was fetched."""
        return self._status

    @status.setter
    def status(self, status: int) -> None:
        self._status = _checked(status)

    @property
    def headers(self) -> Headers:
        """The header fields, which can be changed in place. An assigned mapping, or pairs, replaces them."""
        return self._headers

    @headers.setter
    def headers(self, headers: Source | Headers) -> None:
        self._headers = Headers(headers)

    @property
    def body(self) -> Body:
        """The body, which can be read once. Assigned bytes, str or an async iterable replace it."""
        return self._body

    @body.setter
    def body(self, body: Content | Body) -> None:
        self._body = body if isinstance(body, Body) else Body(body)

    @property
    def ok(self) -> bool:
        """Whether the status is 200 to 299."""
        return self.status < 300

    async def bytes(self) -> bytes:
        """Returns the whole body. Raises RuntimeError if it was read already."""
        return await self.body.bytes()

    async def text(self) -> str:
        """Returns the whole body as UTF-8; invalid bytes are replaced."""
        return await self.body.text()

    async def aclose(self) -> None:
        """Closes the source of the body: the connection of a fetched response, or a generator."""
        await self.body.aclose()

    def __repr__(self) -> str:
        return f"<Response {self.status}>"


def _of_json(
    cls: type[Response], value: Any, status: int = 200, headers: Source | Headers | None = None
) -> Response:
    response = cls(json.dumps(value).encode(), status, headers)
    if "content-type" not in response.headers:
        response.headers.set("content-type", "application/json")
    return response


def _checked(status: int) -> int:
    if not (isinstance(status, int) and 200 <= status <= 599):
        raise ValueError(f"a response's status is an int from 200 to 599, not {status!r}")
    return int(status)
