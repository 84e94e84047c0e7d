"""A response, fetched or made by a handler. Pure."""

from __future__ import annotations

import json
from typing import Any

from pyinterceptor.web.body import Body, Content
from pyinterceptor.web.headers import Headers, Source

TEXT = (("content-type", "text/plain; charset=utf-8"),)


class Response:
    """`status`, `headers`, `body`. A str is sent as UTF-8 text unless a content-type is given.

    Raises ValueError for a status outside 200..599.
    """

    __slots__ = ("_body", "_headers", "_status")

    def __init__(
        self, body: Content | Body = None, status: int = 200, headers: Source | Headers | None = None
    ) -> None:
        self._status = _checked(status)
        self._body = body if isinstance(body, Body) else Body(body)
        if headers is None:
            self._headers = Headers.parsed(TEXT if isinstance(body, str) else ())
        else:
            self._headers = Headers(headers)
            if isinstance(body, str) and "content-type" not in self._headers:
                self._headers.set(*TEXT[0])

    @classmethod
    def from_json(cls, value: Any, status: int = 200, headers: Source | Headers | None = None) -> Response:
        """Returns a response whose body is `value` as JSON."""
        response = cls(json.dumps(value).encode(), status, headers)
        if "content-type" not in response.headers:
            response.headers.set("content-type", "application/json")
        return response

    # Assigned values are checked as in the constructor, so that a response can always be sent.

    @property
    def status(self) -> int:
        """The status code, 200 to 599."""
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

    async def json(self) -> Any:
        """Returns the whole body, parsed as JSON. Raises ValueError if it is not JSON."""
        return await self.body.json()

    async def aclose(self) -> None:
        """Closes the source of the body: the connection of a fetched response, or a generator."""
        await self.body.aclose()

    def __repr__(self) -> str:
        return f"<Response {self.status}>"


def _checked(status: int) -> int:
    if not (isinstance(status, int) and 200 <= status <= 599):
        raise ValueError(f"a response's status is an int from 200 to 599, not {status!r}")
    return int(status)
