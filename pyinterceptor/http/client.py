"""The HTTP/1.1 client: dials origins, pools idle connections, and follows redirects on request.

The dialler's guard checks each connection before it is dialled, and again before an idle one is reused, because the
policy may have changed. This applies to the connections of redirects as well.
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Literal, Protocol

import trio

from pyinterceptor.errors import FetchError
from pyinterceptor.http.asking import Hop, fields_after, hop_after, host_field, request_head
from pyinterceptor.http.dial import Decides, Descriptors, Dialled, Unlimited
from pyinterceptor.http.exchange import Connection, Exchange, Unanswered, reason
from pyinterceptor.http.fields import end_to_end, upgrade_of
from pyinterceptor.http.pool import IDLE_SECONDS, Origin, Pool
from pyinterceptor.http.reply import MAX_HEAD
from pyinterceptor.http.transfer import Pump
from pyinterceptor.http.tunnel import Switched
from pyinterceptor.web import Body, Headers, Request, Response

Redirect = Literal["follow", "manual"]

MAX_REDIRECTS = 20  # Fetch standard
MAX_OPEN = 1024  # connections of one client, idle ones included; with the flows, below the usual limit of descriptors
TLS_DEADLINE = 15.0  # seconds
# The idempotent methods: repeating such a request has no further effect (RFC 9110 section 9.2.2).
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
NEVER = frozenset({"CONNECT", "TRACE"})
# The methods whose content every server reads. A server that ignores the content of another one, such as GET, may take
# it for the next request (RFC 9110 section 9.3.1).
CONTENT_METHODS = frozenset({"POST", "PUT", "PATCH", "QUERY", "PROPFIND", "REPORT", "SEARCH"})


class Dial(Protocol):
    """The part of a `Dialer` that a client needs."""

    async def __call__(self, host: str, port: int, local: bool, at: str | None, decides: Decides | None) -> Dialled: ...
    def may_use(self, ip: str, port: int, local: bool, decides: Decides | None) -> bool: ...


@functools.cache
def verified_tls() -> ssl.SSLContext:
    """Returns a context that verifies certificates with the system's authorities, and checks host names."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class Client:
    """A client, made by `open_client`. A response holds its connection until its body has ended or is closed."""

    def __init__(
        self,
        dial: Dial,
        nursery: trio.Nursery,
        ssl_context: ssl.SSLContext | None,
        pump: Pump | None,
        descriptors: Descriptors,
        content_methods: Collection[str],
        max_head: int,
    ) -> None:
        self._dial = dial
        self._nursery = nursery
        self._ssl_context = ssl_context
        self._pump = pump
        self._descriptors = descriptors
        self._max_head = max_head
        self._content_methods = CONTENT_METHODS.union(content_methods)
        self._pool: Pool[Connection] = Pool()
        self._open: set[Connection] = set()
        self._dialling = 0
        self._is_closed = False

    async def fetch(self, request: Request, *, local: bool = False, redirect: Redirect = "follow") -> Response:
        """Sends a request, and returns the response once its head has arrived. Takes the request's body.

        `local` permits addresses that the guard classifies as local, but only for the request's own origin. With
        `redirect="manual"`, a redirect is returned like any other response.

        Raises DialRefused if the guard permits no address of the host, FetchError if the connection or the response
        fails, RuntimeError if the body was read already, and ValueError if the method can't be fetched.
        """
        self._check(request)
        for _ in range(MAX_REDIRECTS + 1):
            url = request.url
            origin = Origin(url.scheme, url.host, url.port, local)
            host = host_field(url, request.headers.get("host"))
            response = await self._ask(origin, request, url.target, host)
            hop = None if redirect == "manual" else _hop(request, response)
            if hop is None:
                _mark_used(request.body)
                return response
            await _discard(response)
            before, request = request, _follow(request, hop)
            local = local and _is_same_origin(before, request)
        raise FetchError(f"fetch {request.url}: more than {MAX_REDIRECTS} redirects")

    async def pass_on(self, request: Request, *, at: str | None, port: int, decides: Decides) -> Response:
        """Sends a container's own request unchanged, and returns the response. Takes the request's body.

        `at` is the address that the container dialled, which may not belong to the request's host; None means the
        host's own addresses. Only addresses for which `decides` returns True are used.

        Raises the same exceptions as `fetch`, and OtherRule if `decides` returns False for all addresses that the guard
        permits.
        """
        self._check(request)
        url = request.url
        origin = Origin("http", url.host, port, False, at)
        host = request.headers.get("host") or url.authority
        response = await self._ask(origin, request, request.target or url.target, host, decides)
        _mark_used(request.body)
        return response

    def _check(self, request: Request) -> None:
        if self._is_closed:
            raise RuntimeError(f"fetch {request.url}: the interceptor is closed")
        if request.method.upper() in NEVER:
            raise ValueError(f"{request.method} can't be fetched")
        if request.body.is_used:
            raise RuntimeError(f"fetch {request.url}: the request's body was read already")

    async def _ask(
        self, origin: Origin, request: Request, target: str, host: str, decides: Decides | None = None
    ) -> Response:
        """Sends one request. If a reused connection turns out to be closed, repeats it on a new one."""
        method, body = request.method, request.body
        fields = list(Headers(request.headers).items())
        upgrade = upgrade_of(fields) if request.target is not None else None
        is_alone = body.length != 0 and method not in self._content_methods
        head = request_head(method, target, host, fields, body.length, upgrade, closes=is_alone)
        connection = None if upgrade or is_alone else await self._kept(origin, decides)
        if connection is not None:
            try:
                return await self._exchange(connection, method, head, body)
            except Unanswered:
                if method not in IDEMPOTENT or (body.is_used and body.content is None):
                    raise
                if body.content is not None:
                    body = Body(body.content)
        connection = await self._connect(origin, decides)
        return await self._exchange(
            connection, method, head, body, may_switch=upgrade is not None, may_reuse=not is_alone
        )

    async def _exchange(
        self,
        connection: Connection,
        method: str,
        head: bytes,
        body: Body,
        *,
        may_switch: bool = False,
        may_reuse: bool = True,
    ) -> Response:
        give_back = self._give_back if may_reuse else self._close_after
        exchange = Exchange(
            connection, method, give_back, self._pump, may_switch=may_switch, max_head=self._max_head
        )
        reply = await exchange.start(head, body, self._nursery)
        if exchange.has_switched:
            await exchange.wait_sent()
            return Switched(exchange, reply.fields)
        is_whole = exchange.parser.is_done and not exchange.trailers
        answer = Body(exchange.parser.take()) if is_whole else Body(exchange, reply.length)
        return Response.fetched(answer, reply.status, Headers.parsed(end_to_end(reply.fields)))

    async def _kept(self, origin: Origin, decides: Decides | None) -> Connection | None:
        """Returns an idle connection that the current policy permits and that shows no sign of its end; else None."""
        while (connection := self._pool.take(origin)) is not None:
            is_permitted = self._dial.may_use(connection.ip, origin.port, origin.local, decides)
            if is_permitted and not connection.is_stale():
                return connection
            await self._close(connection)
        return None

    async def _connect(self, origin: Origin, decides: Decides | None) -> Connection:
        await self._take_descriptor(origin)
        self._dialling += 1
        try:
            dialled = await self._dial(origin.host, origin.port, origin.local, origin.at, decides)
            transport = dialled.stream
            stream = await self._secure(transport, origin) if origin.scheme == "https" else transport
        except BaseException:
            self._descriptors.give_back()
            raise
        finally:
            self._dialling -= 1
        connection = Connection(origin, stream, transport, dialled.ip)
        if self._is_closed:
            self._descriptors.give_back()
            await connection.aclose()
            raise FetchError(f"connect to {connection.name}: the interceptor is closed")
        self._open.add(connection)
        return connection

    async def _take_descriptor(self, origin: Origin) -> None:
        """Takes a place for one more connection; closes an idle one if there is none."""
        while len(self._open) + self._dialling >= MAX_OPEN or not self._descriptors.take():
            idle = self._pool.oldest()
            if idle is None:
                count = len(self._open) + self._dialling
                why = f"the container has {count} connections already, and its budget has no room for another"
                raise FetchError(f"connect to {origin.host}:{origin.port}: {why}")
            await self._close(idle)

    async def _secure(self, transport: trio.abc.Stream, origin: Origin) -> trio.abc.Stream:
        context = self._ssl_context or verified_tls()
        name = f"{origin.host}:{origin.port}"
        stream = trio.SSLStream(transport, context, server_hostname=origin.host, https_compatible=True)
        try:
            with trio.move_on_after(TLS_DEADLINE) as scope:
                await stream.do_handshake()
        except trio.BrokenResourceError as error:
            await trio.aclose_forcefully(transport)
            raise FetchError(f"TLS with {name}: {reason(error)}") from error
        except BaseException:
            await trio.aclose_forcefully(transport)
            raise
        if scope.cancelled_caught:
            await trio.aclose_forcefully(transport)
            raise FetchError(f"TLS with {name}: timed out")
        return stream

    async def _give_back(self, connection: Connection, is_reusable: bool) -> None:
        gone: Connection | None = connection
        if is_reusable and not self._is_closed:
            gone = self._pool.put(connection.origin, connection, trio.current_time())
        if gone is not None:
            await self._close(gone)

    async def _close_after(self, connection: Connection, is_reusable: bool) -> None:
        """Closes the connection of a request whose content its origin may have read as another request."""
        await self._close(connection)

    async def _close(self, connection: Connection) -> None:
        if connection in self._open:
            self._open.discard(connection)
            self._descriptors.give_back()
        await connection.aclose()

    async def expire(self) -> None:
        """Closes connections that have been idle for too long. Runs until cancelled."""
        while True:
            await trio.sleep(IDLE_SECONDS / 2)
            for connection in self._pool.expired(trio.current_time()):
                await self._close(connection)

    async def aclose(self) -> None:
        """Closes every connection. A response that is still being read fails."""
        self._is_closed = True
        for connection in list(self._open):
            await self._close(connection)


@asynccontextmanager
async def open_client(
    dial: Dial,
    *,
    ssl_context: ssl.SSLContext | None = None,
    pump: Pump | None = None,
    descriptors: Descriptors | None = None,
    content_methods: Collection[str] = (),
    max_head: int = MAX_HEAD,
) -> AsyncIterator[Client]:
    """Yields a client, which is closed when the block ends. `ssl_context` replaces `verified_tls()`.

    `descriptors` is the budget of its connections. A request with content whose method is neither in CONTENT_METHODS
    nor in `content_methods` has a connection of its own, which is closed after the response. `max_head` limits the
    bytes of a response's head.
    """
    async with trio.open_nursery() as nursery:
        client = Client(dial, nursery, ssl_context, pump, descriptors or Unlimited(), content_methods, max_head)
        nursery.start_soon(client.expire)
        try:
            yield client
        finally:
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await client.aclose()


def _hop(request: Request, response: Response) -> Hop | None:
    try:
        return hop_after(response.status, response.headers.get("location"), request.method, request.url)
    except ValueError as error:
        raise FetchError(f"redirect from {request.url}: {error}") from error


def _mark_used(body: Body) -> None:
    """Marks a sent body as used, even one in memory, so that it can't be sent twice by mistake."""
    body.is_used = True


async def _discard(response: Response) -> None:
    """Closes a redirect's own response: its connection is closed instead of being read to the end."""
    with trio.CancelScope(shield=True):
        await response.aclose()


def _follow(request: Request, hop: Hop) -> Request:
    """Returns the next request. Raises FetchError if it needs a body that was a stream, which can't be sent again."""
    if request.body.content is None and not hop.drops_body:
        why = "the request's body was a stream and can't be sent again"
        raise FetchError(f"redirect from {request.url} to {hop.url}: {why}")
    body = Body() if hop.drops_body else Body(request.body.content)
    following = Request(hop.url, hop.method, None, body)
    same = _is_same_origin(request, following)
    fields = fields_after(request.headers.items(), drops_body=hop.drops_body, same_origin=same)
    following.headers = Headers(fields)
    return following


def _is_same_origin(one: Request, other: Request) -> bool:
    a, b = one.url, other.url
    return (a.scheme, a.host, a.port) == (b.scheme, b.host, b.port)
