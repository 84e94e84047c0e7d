"""`asgi(application)`: an ASGI application, such as Starlette's or FastAPI's, as a handler.

Bodies are streamed both ways. The application's lifespan begins with its first request and ends with Trio's run.
https://asgi.readthedocs.io/en/latest/specs/www.html
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from functools import partial
from typing import Any, Literal
from urllib.parse import unquote

import trio

from pyinterceptor.app.container import Context
from pyinterceptor.errors import PolicyError
from pyinterceptor.web import Body, Request, Response

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
Result = asyncio.Future[Any]

log = logging.getLogger("pyinterceptor")

LOOPS = ("trio", "asyncio")
SPEC = {"version": "3.0", "spec_version": "2.4"}
SHUTDOWN = 5.0  # seconds that the application has to end its lifespan


def asgi(application: Application, loop: Literal["trio", "asyncio"] = "trio") -> Asgi:
    """Returns a handler that an ASGI application answers: `Sandbox.outbound = asgi(FastAPI(), loop="asyncio")`.

    With "trio" the application runs as Trio tasks; with "asyncio" in a thread with a loop of its own. It finds env and
    ctx in `scope["extensions"]["pyinterceptor"]`.

    Raises PolicyError for another loop, or if the application can't be called.
    """
    if not callable(application):
        raise PolicyError(f"asgi takes an ASGI application, not {application!r}")
    if loop not in LOOPS:
        raise PolicyError(f'asgi(…, loop={loop!r}): the loops are "trio" and "asyncio"')
    return Asgi(application, loop)


class Asgi:
    """Made by `asgi`."""

    def __init__(self, application: Application, loop: str) -> None:
        self._application = application
        self._loop = loop
        self._serving: trio.lowlevel.RunVar[Lifespan | None] = trio.lowlevel.RunVar("asgi lifespan", None)

    async def __call__(self, request: Request, env: Any, ctx: Context) -> Response:
        lifespan = self._serving.get()
        if lifespan is None:
            running = OnTrio() if self._loop == "trio" else OnAsyncio(trio.lowlevel.current_trio_token())
            lifespan = Lifespan(self._application, running)
            self._serving.set(lifespan)
            trio.lowlevel.spawn_system_task(lifespan.run, name="asgi lifespan")
        await lifespan.has_begun.wait()
        if lifespan.failure is not None:
            raise RuntimeError(f"the application's lifespan failed to start: {lifespan.failure}")
        exchange = Exchange(request, env, ctx, lifespan.state)
        ctx.wait_until(exchange.run, self._application, lifespan.running)
        try:
            return await exchange.response()
        except BaseException:
            exchange.gone.set()
            raise


class OnTrio:
    """Runs an application's coroutines as they are."""

    async def run(self, application: Application, scope: Any, receive: Receive, send: Send) -> None:
        await application(scope, receive, send)

    async def close(self) -> None:
        """Has nothing to close."""


class OnAsyncio:
    """Runs an application's coroutines in a thread with an asyncio loop; what they await of ours runs in Trio."""

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self._token = token
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="pyinterceptor asgi", daemon=True)
        self._thread.start()

    async def run(self, application: Application, scope: Any, receive: Receive, send: Send) -> None:
        ended = trio.Event()
        tasks: list[asyncio.Task[None]] = []  # one, once the loop has begun it
        async with trio.open_nursery() as nursery:

            async def in_trio(function: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
                result = self._loop.create_future()
                task = partial(self._settle, result, function, *arguments)
                self._token.run_sync_soon(self._begin, nursery, ended, result, task)
                return await result

            async def main() -> None:
                await application(scope, partial(in_trio, receive), partial(in_trio, send))

            def begin() -> None:
                tasks.append(self._loop.create_task(main()))
                tasks[0].add_done_callback(end)

            def end(task: asyncio.Task[None]) -> None:
                if not task.cancelled():
                    task.exception()  # asyncio logs one that nobody has asked for
                self._token.run_sync_soon(ended.set)

            self._loop.call_soon_threadsafe(begin)
            try:
                await ended.wait()
            except trio.Cancelled:
                self._soon(lambda: tasks[0].cancel())
                raise
            nursery.cancel_scope.cancel()
        if tasks[0].cancelled():
            raise RuntimeError("the application has cancelled its own task")
        tasks[0].result()

    def _begin(
        self, nursery: trio.Nursery, ended: trio.Event, result: Result, task: Callable[[], Awaitable[None]]
    ) -> None:
        if ended.is_set() or nursery.cancel_scope.cancel_called:
            self._tell(result, result.cancel)
        else:
            nursery.start_soon(task)

    async def _settle(self, result: Result, function: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
        """Runs a function in Trio for a coroutine of asyncio."""
        try:
            value = await function(*arguments)
        except Exception as error:
            self._tell(result, partial(result.set_exception, error))
        except BaseException:
            self._tell(result, result.cancel)
            raise
        else:
            self._tell(result, partial(result.set_result, value))

    def _tell(self, result: Result, settle: Callable[[], Any]) -> None:
        """Settles a result on the loop's thread, unless it is settled."""

        def settle_once() -> None:
            if not result.done():
                settle()

        self._soon(settle_once)

    def _soon(self, act: Callable[[], Any]) -> None:
        """Calls a function on the loop's thread. Does nothing once the loop is closed."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(act)

    async def close(self) -> None:
        """Ends the loop and its thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        await trio.to_thread.run_sync(self._thread.join)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    self._loop.run_until_complete(task)
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()


class Lifespan:
    """The lifespan of an application in one run of Trio. An application without one is served all the same."""

    def __init__(self, application: Application, running: OnTrio | OnAsyncio) -> None:
        self.running = running
        self.state: dict[str, Any] = {}
        self.failure: str | None = None
        self.has_begun = trio.Event()
        self._application = application
        self._scope = trio.CancelScope(shield=True)  # it outlives the cancellation of Trio's run
        self._is_over = trio.Event()
        self._has_ended = trio.Event()
        self._has_asked = False

    async def run(self) -> None:
        """Runs until Trio's run ends."""
        trio.lowlevel.spawn_system_task(self._apply, name="asgi application")
        try:
            await trio.sleep_forever()
        finally:
            with trio.move_on_after(SHUTDOWN, shield=True):
                self._is_over.set()
                await self._has_ended.wait()
            self._scope.cancel()
            with trio.CancelScope(shield=True):
                await self.running.close()

    async def _apply(self) -> None:
        scope = {"type": "lifespan", "asgi": SPEC, "state": self.state}
        with self._scope:
            try:
                await self.running.run(self._application, scope, self._receive, self._send)
            except Exception as error:
                log.debug("the application has no lifespan, or its lifespan failed: %s", error)
            finally:
                self.has_begun.set()
                self._has_ended.set()

    async def _receive(self) -> Message:
        if not self._has_asked:
            self._has_asked = True
            return {"type": "lifespan.startup"}
        await self._is_over.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        match message["type"]:
            case "lifespan.startup.complete":
                self.has_begun.set()
            case "lifespan.startup.failed":
                self.failure = message.get("message") or "it said no reason"
                self.has_begun.set()
            case _:
                self._has_ended.set()


class Exchange:
    """One request that the application answers. `gone` is set when nobody reads its answer any more."""

    def __init__(self, request: Request, env: Any, ctx: Context, state: dict[str, Any]) -> None:
        self.gone = trio.Event()
        self.is_complete = False
        self._request = request
        self._scope = scope_of(request, env, ctx, state)
        self._chunks: Any = None
        self._start: Message | None = None
        self._response: Response | None = None
        self._error: Exception | None = None
        self._is_answered = trio.Event()
        self._sending, receiving = trio.open_memory_channel[bytes](0)
        self._body = Streamed(self, receiving)

    async def run(self, application: Application, running: OnTrio | OnAsyncio) -> None:
        """Runs the application to its end. Raises its exception, if the response has begun."""
        try:
            await running.run(application, self._scope, self._receive, self._send)
        except Exception as error:
            if self._response is not None and not self.gone.is_set():
                raise
            self._error = error
        finally:
            self._is_answered.set()
            self._sending.close()

    async def response(self) -> Response:
        """Waits for the application's response. Raises its exception if there is none."""
        await self._is_answered.wait()
        if self._response is None:
            raise self._error or RuntimeError("the application sent no response")
        return self._response

    async def _receive(self) -> Message:
        if self._chunks is None:
            self._chunks = aiter(self._request.body)
        if self._chunks is not END:
            chunk = await anext(self._chunks, None)
            if chunk is None:
                self._chunks = END
            return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        if self._start is None:
            raise RuntimeError("http.response.body came before http.response.start")
        body, has_more = bytes(message.get("body", b"")), message.get("more_body", False)
        if self._response is None:
            self._answer(None if has_more else body)
            if not has_more:
                self._complete()
                return
        try:
            if body:
                await self._sending.send(body)
        except trio.BrokenResourceError:
            raise OSError("the client has gone") from None
        if not has_more:
            self._complete()

    def _answer(self, whole: bytes | None) -> None:
        assert self._start is not None
        fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self._start.get("headers", ())]
        length = next((int(value) for name, value in fields if name.lower() == "content-length"), None)
        body = Body(self._body, length) if whole is None else Body(whole)
        self._response = Response(body, self._start["status"], fields)
        self._is_answered.set()

    def _complete(self) -> None:
        self.is_complete = True
        self._sending.close()
        self.gone.set()


END = object()


class Streamed:
    """The chunks of a response. An application that ends before its response is complete breaks it off."""

    def __init__(self, exchange: Exchange, chunks: trio.MemoryReceiveChannel[bytes]) -> None:
        self._exchange = exchange
        self._chunks = chunks

    def __aiter__(self) -> Streamed:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self._chunks.receive()
        except trio.EndOfChannel:
            if self._exchange.is_complete:
                raise StopAsyncIteration from None
            raise RuntimeError("the application ended before its response was complete") from None

    async def aclose(self) -> None:
        """Tells the application that nobody reads any more."""
        self._exchange.gone.set()
        self._chunks.close()


def scope_of(request: Request, env: Any, ctx: Context, state: dict[str, Any]) -> dict[str, Any]:
    """Returns the ASGI connection scope of a request."""
    url, fields = request.url, request.headers.items()
    port = url.port or (443 if url.scheme == "https" else 80)
    return {
        "type": "http",
        "asgi": SPEC,
        "http_version": "1.1",
        "method": request.method,
        "scheme": url.scheme,
        "path": unquote(url.path),
        "raw_path": url.path.encode("ascii", "replace"),
        "query_string": (url.query or "").removeprefix("?").encode("ascii", "replace"),
        "root_path": "",
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in fields],
        "client": None,
        "server": (url.host, int(port)),
        "state": dict(state),
        "extensions": {"pyinterceptor": {"env": env, "ctx": ctx}},
    }
