"""What a container asked for. Pure."""

from __future__ import annotations

from typing import Any

from pyinterceptor.web.body import Body, Content
from pyinterceptor.web.headers import TOKEN, Headers, Source
from pyinterceptor.web.url import URL

COMMON = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT"})  # Fetch standard, "normalize a method"


class Request:
    """`method`, `url`, `headers`, `body`; `await request.text()`, `.json()`, `.bytes()` read the body, once.

    `target` is what a container's own request line said; None for a request that was made here.
    """

    __slots__ = ("body", "headers", "method", "target", "url")

    target: str | None

    def __init__(
        self,
        url: str | URL,
        method: str = "GET",
        headers: Source | Headers | None = None,
        body: Content | Body = None,
    ) -> None:
        self.url = url if isinstance(url, URL) else URL(url)
        self.method = _checked(method)
        self.headers = Headers(headers)
        self.body = body if isinstance(body, Body) else Body(body)
        self.target = None

    @classmethod
    def incoming(cls, url: URL, method: str, target: str, headers: Headers, body: Body) -> Request:
        """A container's own, read by a strict parser."""
        request = cls.__new__(cls)
        request.url, request.method, request.target, request.headers, request.body = url, method, target, headers, body
        return request

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
