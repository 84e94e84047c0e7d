"""What a container is answered. Pure."""

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

    __slots__ = ("body", "headers", "status")

    def __init__(
        self, body: Content | Body = None, status: int = 200, headers: Source | Headers | None = None
    ) -> None:
        if not 200 <= status <= 599:
            raise ValueError(f"a response's status is 200 to 599, not {status}")
        self.status = status
        self.body = body if isinstance(body, Body) else Body(body)
        if headers is None:
            self.headers = Headers.parsed(TEXT if isinstance(body, str) else ())
        else:
            self.headers = Headers(headers)
            if isinstance(body, str) and "content-type" not in self.headers:
                self.headers.set(*TEXT[0])

    @classmethod
    def from_json(cls, value: Any, status: int = 200, headers: Source | Headers | None = None) -> Response:
        """A response whose body is `value` as JSON."""
        response = cls(json.dumps(value).encode(), status, headers)
        if "content-type" not in response.headers:
            response.headers.set("content-type", "application/json")
        return response

    @property
    def ok(self) -> bool:
        """The status is one of success."""
        return self.status < 300

    async def bytes(self) -> bytes:
        return await self.body.bytes()

    async def text(self) -> str:
        return await self.body.text()

    async def json(self) -> Any:
        return await self.body.json()

    async def aclose(self) -> None:
        """Lets go of what the rest of the body would come from."""
        await self.body.aclose()

    def __repr__(self) -> str:
        return f"<Response {self.status}>"
