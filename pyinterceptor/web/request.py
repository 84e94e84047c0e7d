"""What a container asked for. Pure."""

from __future__ import annotations

from typing import Any

from pyinterceptor.web.body import Body, Content
from pyinterceptor.web.headers import Headers, Source
from pyinterceptor.web.url import URL


class Request:
    """`method`, `url`, `headers`, `body`; `await request.text()`, `.json()`, `.bytes()` read the body, once."""

    __slots__ = ("body", "headers", "is_incoming", "method", "url")

    def __init__(
        self,
        url: str | URL,
        method: str = "GET",
        headers: Source | Headers | None = None,
        body: Content | Body = None,
    ) -> None:
        self.url = url if isinstance(url, URL) else URL(url)
        self.method = method
        self.headers = headers if isinstance(headers, Headers) else Headers(headers)
        self.body = body if isinstance(body, Body) else Body(body)
        self.is_incoming = False  # it came from a container: passed on, its redirects are the container's to follow

    async def bytes(self) -> bytes:
        return await self.body.bytes()

    async def text(self) -> str:
        return await self.body.text()

    async def json(self) -> Any:
        return await self.body.json()

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.url}>"
