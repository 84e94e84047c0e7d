"""A response, fetched or made by a handler. Pure."""

from __future__ import annotations

import json
from typing import Any

from pyinterceptor.web.body import Body, Content
from pyinterceptor.web.headers import Headers, Source

TEXT = (("content-type", "text/plain; charset=utf-8"),)


class Response:
    """`status`, `headers`, `body`. A str becomes UTF-8 text unless a content-type says otherwise.

    Raises: ValueError for a status outside 200..599.
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
        """A response whose body is `value` as JSON."""
        response = cls(json.dumps(value).encode(), status, headers)
        if "content-type" not in response.headers:
            response.headers.set("content-type", "application/json")
        return response

    # An assigned value is checked like an argument of the constructor, so that a response can always be sent.

    @property
    def status(self) -> int:
        """200 to 599."""
        return self._status

    @status.setter
    def status(self, status: int) -> None:
        self._status = _checked(status)

    @property
    def headers(self) -> Headers:
        """The fields, to be changed in place; a mapping or pairs assigned to it replace them."""
        return self._headers

    @headers.setter
    def headers(self, headers: Source | Headers) -> None:
        self._headers = Headers(headers)

    @property
    def body(self) -> Body:
        """The body, to be read once; bytes, str or an async iterable assigned to it replace it."""
        return self._body

    @body.setter
    def body(self, body: Content | Body) -> None:
        self._body = body if isinstance(body, Body) else Body(body)

    @property
    def ok(self) -> bool:
        """Whether the status is one of success, 200 to 299."""
        return self.status < 300

    async def bytes(self) -> bytes:
        """The whole body. Raises: RuntimeError if it was read already."""
        return await self.body.bytes()

    async def text(self) -> str:
        """The whole body as UTF-8, with replacement characters where it isn't."""
        return await self.body.text()

    async def json(self) -> Any:
        """The whole body as JSON. Raises: ValueError."""
        return await self.body.json()

    async def aclose(self) -> None:
        """Closes the source of the body: a fetched response that won't be read, a generator."""
        await self.body.aclose()

    def __repr__(self) -> str:
        return f"<Response {self.status}>"


def _checked(status: int) -> int:
    if not (isinstance(status, int) and 200 <= status <= 599):
        raise ValueError(f"a response's status is an int from 200 to 599, not {status!r}")
    return int(status)
