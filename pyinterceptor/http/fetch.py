"""`fetch()`, as handlers call it, and the time in which they may.

The scope of a handler's call knows the client to use and what was fetched; what the handler neither read nor returned
is closed when it ends.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextvars import ContextVar, Token

import trio

from pyinterceptor.http.client import Client, Redirect
from pyinterceptor.web import URL, Body, Headers, Request, Response
from pyinterceptor.web.body import Content
from pyinterceptor.web.headers import Source as Fields


class FetchScope:
    """`with FetchScope(client) as scope:` around one call of a handler; then, if it `has_fetched`,
    `await scope.let_go(response)` with what the handler has returned."""

    __slots__ = ("_fetched", "_token", "client", "has_fetched", "is_over")

    def __init__(self, client: Client) -> None:
        self.client = client
        self.is_over = False
        self.has_fetched = False
        self._fetched: list[Body]
        self._token: Token[FetchScope | None]

    def __enter__(self) -> FetchScope:
        self._token = _current.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)
        self.is_over = True

    def track(self, response: Response) -> None:
        """The response was fetched in this scope."""
        if not self.has_fetched:
            self.has_fetched, self._fetched = True, []
        self._fetched.append(response.body)

    async def let_go(self, response: Response | None) -> None:
        """Closes what was fetched, neither returned nor read. What `response` needs outlives the scope."""
        kept = None if response is None else response.body
        others = [body for body in self._fetched if body is not kept]
        if response is not None and kept is not None and kept.content is None and len(others) == len(self._fetched):
            # A stream of the handler's own may read from what was fetched: both end together.
            response.body = Body(_Derived(kept, others), kept.length)
        else:
            await _close(others)


class _Derived:
    """A body that may be made from others, which are closed at its end."""

    def __init__(self, body: Body, others: list[Body]) -> None:
        self._body = body
        self._others = others
        self._chunks: AsyncIterator[bytes] | None = None

    def __aiter__(self) -> _Derived:
        return self

    async def __anext__(self) -> bytes:
        if self._chunks is None:
            self._chunks = aiter(self._body)
        return await anext(self._chunks)

    async def aclose(self) -> None:
        try:
            await self._body.aclose()
        finally:
            await _close(self._others)


async def _close(bodies: list[Body]) -> None:
    with trio.CancelScope(shield=True):  # closing waits for nobody
        for body in bodies:
            await body.aclose()


_current: ContextVar[FetchScope | None] = ContextVar("pyinterceptor.fetch_scope", default=None)


async def fetch(
    resource: str | URL | Request,
    *,
    method: str | None = None,
    headers: Fields | Headers | None = None,
    body: Content | Body = None,
    local: bool = False,
    redirect: Redirect | None = None,
) -> Response:
    """Asks the internet, from the host's side and never intercepted; returns when the response's head is there.

    A `Request` is passed on as it came; `method`, `headers` and `body` replace its own. `local=True` permits addresses
    of the host and its networks, which are refused otherwise. Redirects are followed, except those of a container's
    own request, which are the container's to follow; `redirect="follow"` or `"manual"` says otherwise.

    Raises: DialRefused where the host's addresses are refused; FetchError for what fails on the way; RuntimeError
    outside a handler.
    """
    scope = _current.get()
    if scope is None or scope.is_over:
        raise RuntimeError("fetch() works in a handler, until it has returned, while the interceptor is open")
    request = _request(resource, method, headers, body)
    if redirect is None:
        redirect = "manual" if isinstance(resource, Request) and resource.target is not None else "follow"
    response = await scope.client.fetch(request, local=local, redirect=redirect)
    scope.track(response)
    return response


def _request(
    resource: str | URL | Request, method: str | None, headers: Fields | Headers | None, body: Content | Body
) -> Request:
    if not isinstance(resource, Request):
        return Request(resource, method or "GET", headers, body)
    if method is None and headers is None and body is None:
        return resource
    return Request(
        resource.url,
        method or resource.method,
        resource.headers if headers is None else headers,
        resource.body if body is None else body,
    )
