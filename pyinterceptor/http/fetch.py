"""`fetch()` for handlers, and the scope in which they may call it.

The scope of a handler's call holds the client and the fetched responses. At its end, responses that the handler has
neither read nor returned are closed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextvars import ContextVar, Token
from typing import get_args

import trio

from pyinterceptor.http.client import Client, Redirect
from pyinterceptor.web import URL, Body, Headers, Request, Response
from pyinterceptor.web.body import Content
from pyinterceptor.web.headers import Source as Fields


class FetchScope:
    """The scope of one call of a handler: `with FetchScope(client) as scope:`. If it `has_fetched`, it must be followed
    by `await scope.let_go(response)` with the response that the handler returned, or None."""

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
        """Adds a response that was fetched in this scope."""
        if not self.has_fetched:
            self.has_fetched, self._fetched = True, []
        self._fetched.append(response.body)

    async def let_go(self, response: Response | None) -> None:
        """Closes the fetched responses, except those that `response` may still read from."""
        kept = None if response is None else response.body
        others = [body for body in self._fetched if body is not kept]
        if response is not None and kept is not None and kept.content is None and len(others) == len(self._fetched):
            # The handler's own stream may read from fetched bodies, so they are closed only with it.
            response.body = Body(_Derived(kept, others), kept.length)
        else:
            await _close(others)


class _Derived:
    """A body that may read from other bodies, and closes them at its own end."""

    def __init__(self, body: Body, others: list[Body]) -> None:
        self._body = body
        self._others = others
        self._chunks: AsyncIterator[bytes] | None = None

    def __aiter__(self) -> _Derived:
        return self

    @property
    def trailers(self) -> Sequence[tuple[str, str]]:
        return self._body.trailers

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
    with trio.CancelScope(shield=True):  # closing doesn't wait for the peer
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
    """Sends a request to the internet, from the host and without interception, and returns once the response's head has
    arrived.

    A `Request` is sent unchanged, except that `method`, `headers` and `body` replace its own. `local=True` permits
    addresses of the host and its networks, which are refused otherwise. Redirects are followed, unless `resource` is
    the container's own request: then the container gets the redirect. `redirect="follow"` or `"manual"` overrides this.

    Raises DialRefused if all addresses of the host are refused, FetchError if the connection or the response fails,
    ValueError for another `redirect`, and RuntimeError if it is called outside of a handler.
    """
    scope = _current.get()
    if scope is None or scope.is_over:
        raise RuntimeError("fetch() can be called only inside a handler, before it returns")
    if redirect not in (None, *get_args(Redirect)):
        raise ValueError(f'fetch(redirect=…) takes "follow" or "manual", not {redirect!r}')
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
    sent = Request(
        resource.url,
        method or resource.method,
        resource.headers if headers is None else headers,
        resource.body if body is None else body,
    )
    sent.target = resource.target
    return sent
