"""The face for asyncio: each method is a coroutine function of asyncio, while Trio works in its own thread.

A cancellation of the coroutine cancels the call. It is raised when the call has ended.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import trio

from pyinterceptor.bindings.env import Env
from pyinterceptor.faces.portal import Call, Portal
from pyinterceptor.faces.steps import Face, in_trio, next_of
from pyinterceptor.runtime.process import Running
from pyinterceptor.serving.channel import R, Subscription
from pyinterceptor.serving.classes import ContainerClass
from pyinterceptor.serving.handle import ContainerHandle, NamespaceHandle
from pyinterceptor.serving.interceptor import Interceptor

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F")


async def result_of(call: Call[T]) -> T:
    """Begins a call and waits for it in asyncio. Returns its result, or raises its exception."""
    result = asyncio.wrap_future(call.future)
    call.begin()
    try:
        return await asyncio.shield(result)
    except asyncio.CancelledError:
        call.cancel()
        await asyncio.wait([result])
        result.exception()  # retrieved, so that asyncio doesn't log it
        raise


def awaits(
    method: Callable[Concatenate[Any, P], Awaitable[T]],
) -> Callable[Concatenate[Face[Any], P], Coroutine[Any, Any, T]]:
    """Returns the form of a method for asyncio."""

    @functools.wraps(method)
    async def coroutine(self: Face[Any], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await result_of(self.portal.call(method, self.inner, *args, **kwargs))

    return coroutine


def gives(
    method: Callable[Concatenate[Any, P], Awaitable[T]], face: Callable[[Portal[Any], T], F]
) -> Callable[Concatenate[Face[Any], P], Coroutine[Any, Any, F]]:
    """Returns the form for asyncio of a method whose result gets a face as well."""

    @functools.wraps(method)
    async def coroutine(self: Face[Any], /, *args: P.args, **kwargs: P.kwargs) -> F:
        made = await result_of(self.portal.call(method, self.inner, *args, **kwargs))
        return made if made is None else face(self.portal, made)  # type: ignore[return-value]  # start() without argv

    return coroutine


class AsyncioStream(Face[trio.lowlevel.FdStream]):
    """A pipe of a command. Raises trio.BrokenResourceError if the other end is closed, like Trio's stream."""

    async def send_all(self, data: bytes) -> None:
        """Writes all of the data."""
        await result_of(self.portal.call(self.inner.send_all, data))

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Reads at least one byte; b"" after the last."""
        return await result_of(self.portal.call(self.inner.receive_some, max_bytes))

    async def close(self) -> None:
        """Closes our end of the pipe."""
        await result_of(self.portal.call(self.inner.aclose))


class AsyncioRunning(Face[Running]):
    """A command that runs in a container, as `Running`; its pipes are `AsyncioStream`s."""

    def __init__(self, portal: Portal[Any], inner: Running) -> None:
        super().__init__(portal, inner)
        self.stdin, self.stdout, self.stderr = (
            None if stream is None else AsyncioStream(portal, stream)
            for stream in (inner.stdin, inner.stdout, inner.stderr)
        )

    @property
    def pid(self) -> int:
        """Its pid on the host."""
        return self.inner.pid

    @property
    def returncode(self) -> int | None:
        """The exit code once `wait` has returned it."""
        return self.inner.returncode

    wait = awaits(Running.wait)
    finish = awaits(Running.finish)
    send_signal = awaits(in_trio(Running.send_signal))
    terminate = awaits(in_trio(Running.terminate))
    close = awaits(Running.aclose)


class AsyncioContainer(Face[ContainerHandle]):
    """The stub of a container, as `ContainerHandle`, which explains the methods. `run_inherited` needs Trio itself."""

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        """Returns a method of the class's own."""
        method = getattr(self.inner, name)
        return lambda *args, **kwargs: result_of(self.portal.call(method, *args, **kwargs))


    @property
    def has_ended(self) -> bool:
        """Whether it was stopped, or its first process has ended."""
        return self.inner.has_ended

    @property
    def pid(self) -> int:
        """Host pid of the container's first process."""
        return self.inner.pid

    exec = awaits(ContainerHandle.exec)
    start = gives(ContainerHandle.start, AsyncioRunning)
    stop = awaits(ContainerHandle.stop)
    set_outbound_handler = awaits(ContainerHandle.set_outbound_handler)
    remove_outbound_handler = awaits(ContainerHandle.remove_outbound_handler)
    set_outbound_by_host = awaits(ContainerHandle.set_outbound_by_host)
    remove_outbound_by_host = awaits(ContainerHandle.remove_outbound_by_host)
    set_outbound_by_hosts = awaits(ContainerHandle.set_outbound_by_hosts)
    reset_outbound = awaits(ContainerHandle.reset_outbound)


class AsyncioContainers(Face[ContainerClass]):
    """A container class as a binding, as `ContainerClass`, which explains the methods."""

    get_by_name = gives(in_trio(ContainerClass.get_by_name), AsyncioContainer)
    get = gives(in_trio(ContainerClass.get), AsyncioContainer)
    id_from_name = awaits(in_trio(ContainerClass.id_from_name))
    id_from_string = awaits(in_trio(ContainerClass.id_from_string))


class AsyncioEnv(Face[Env]):
    """The container classes among the app's bindings. The other bindings are for handlers, which run under Trio."""

    def __getattr__(self, name: str) -> AsyncioContainers:
        value = getattr(self.inner, name)
        if isinstance(value, ContainerClass):
            return AsyncioContainers(self.portal, value)
        raise AttributeError(f"env.{name}: only handlers can use it; here env has the container classes")


class AsyncioNamespace(Face[NamespaceHandle]):
    """An attached network namespace, as `NamespaceHandle`."""

    @property
    def has_ended(self) -> bool:
        """Whether it was detached, or its namespace no longer exists."""
        return self.inner.has_ended

    stop = awaits(NamespaceHandle.stop)


class AsyncioRecords(Face[Subscription[R]], Generic[R]):
    """An asynchronous iterator of records, for one task, as `Subscription`."""

    def __aiter__(self) -> AsyncIterator[R]:
        return self

    async def __anext__(self) -> R:
        record: R | None = await result_of(self.portal.call(next_of, self.inner))
        if record is None:
            raise StopAsyncIteration
        return record

    @property
    def dropped(self) -> int:
        """Count of records other than refusals that this subscriber missed."""
        return self.inner.dropped

    @property
    def dropped_refusals(self) -> int:
        """Count of refusals that this subscriber missed."""
        return self.inner.dropped_refusals


class AsyncioInterceptor(Face[Interceptor]):
    """An interceptor for asyncio, as `Interceptor`, which explains the methods.

    An image's own command isn't run if `get_container` is called with `replaced=True`: the container's first process
    only waits then, and `exec` and `start` run their commands as they are, without the image's entrypoint.
    """

    @property
    def env(self) -> AsyncioEnv:
        """The app's container classes: `interceptor.env.SANDBOX.get_by_name("one")`."""
        return AsyncioEnv(self.portal, self.inner.env)

    get_container = gives(in_trio(Interceptor.get_container), AsyncioContainer)
    attach = gives(Interceptor.attach, AsyncioNamespace)
    replace_policy = awaits(Interceptor.replace_policy)
    count = awaits(in_trio(Interceptor.count))
    count_queries = awaits(in_trio(Interceptor.count_queries))

    @asynccontextmanager
    async def records(self, *kinds: type[R]) -> AsyncIterator[AsyncioRecords[R]]:
        """Subscribes to records of these types while the block lasts: iterate with `async for`, in one task."""
        async with held_open(self.portal, self.inner.records(*kinds)) as subscription:
            yield AsyncioRecords(self.portal, subscription)

    @asynccontextmanager
    async def log_records(self) -> AsyncIterator[None]:
        """Logs each request, flow and refusal while the block lasts, as `Interceptor.log_records`."""
        async with held_open(self.portal, self.inner.log_records()):
            yield


@asynccontextmanager
async def held_open(portal: Portal[Any], context: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """Opens an asynchronous context in Trio for the time of the block."""
    held = portal.hold(context)
    try:
        yield await asyncio.wrap_future(held.opened)
    finally:
        portal.soon(held.closing.set)
        await asyncio.wrap_future(held.closed)
