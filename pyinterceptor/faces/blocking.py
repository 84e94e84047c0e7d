"""The blocking face: each method waits in the thread that calls it, while Trio works in its own.

An exception that interrupts the wait, such as KeyboardInterrupt, cancels the call. It is raised when the call has
ended.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
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


def result_of(call: Call[T]) -> T:
    """Begins a call and waits for it. Returns its result, or raises its exception."""
    try:
        call.begin()
        return call.future.result()
    except BaseException:
        if not call.future.done():
            call.cancel()
            call.future.exception()
        raise


def waits(method: Callable[Concatenate[Any, P], Awaitable[T]]) -> Callable[Concatenate[Face[Any], P], T]:
    """Returns the blocking form of a method."""

    @functools.wraps(method)
    def blocking(self: Face[Any], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return result_of(self.portal.call(method, self.inner, *args, **kwargs))

    return blocking


def gives(
    method: Callable[Concatenate[Any, P], Awaitable[T]], face: Callable[[Portal[Any], T], F]
) -> Callable[Concatenate[Face[Any], P], F]:
    """Returns the blocking form of a method whose result gets a face as well."""

    @functools.wraps(method)
    def blocking(self: Face[Any], /, *args: P.args, **kwargs: P.kwargs) -> F:
        made = result_of(self.portal.call(method, self.inner, *args, **kwargs))
        return made if made is None else face(self.portal, made)  # type: ignore[return-value]  # start() without argv

    return blocking


class BlockingStream(Face[trio.lowlevel.FdStream]):
    """A pipe of a command. Raises trio.BrokenResourceError if the other end is closed, like Trio's stream."""

    def send_all(self, data: bytes) -> None:
        """Writes all of the data."""
        result_of(self.portal.call(self.inner.send_all, data))

    def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Reads at least one byte; b"" after the last."""
        return result_of(self.portal.call(self.inner.receive_some, max_bytes))

    def close(self) -> None:
        """Closes our end of the pipe."""
        result_of(self.portal.call(self.inner.aclose))


class BlockingRunning(Face[Running]):
    """A command that runs in a container, as `Running`; its pipes are `BlockingStream`s."""

    def __init__(self, portal: Portal[Any], inner: Running) -> None:
        super().__init__(portal, inner)
        self.stdin, self.stdout, self.stderr = (
            None if stream is None else BlockingStream(portal, stream)
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

    wait = waits(Running.wait)
    finish = waits(Running.finish)
    send_signal = waits(in_trio(Running.send_signal))
    terminate = waits(in_trio(Running.terminate))
    close = waits(Running.aclose)


class BlockingContainer(Face[ContainerHandle]):
    """The stub of a container, as `ContainerHandle`, which explains the methods. `run_inherited` needs Trio itself."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
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

    exec = waits(ContainerHandle.exec)
    start = gives(ContainerHandle.start, BlockingRunning)
    stop = waits(ContainerHandle.stop)
    set_outbound_handler = waits(ContainerHandle.set_outbound_handler)
    remove_outbound_handler = waits(ContainerHandle.remove_outbound_handler)
    set_outbound_by_host = waits(ContainerHandle.set_outbound_by_host)
    remove_outbound_by_host = waits(ContainerHandle.remove_outbound_by_host)
    set_outbound_by_hosts = waits(ContainerHandle.set_outbound_by_hosts)
    reset_outbound = waits(ContainerHandle.reset_outbound)


class BlockingContainers(Face[ContainerClass]):
    """A container class as a binding, as `ContainerClass`, which explains the methods."""

    get_by_name = gives(in_trio(ContainerClass.get_by_name), BlockingContainer)
    get = gives(in_trio(ContainerClass.get), BlockingContainer)
    id_from_name = waits(in_trio(ContainerClass.id_from_name))
    id_from_string = waits(in_trio(ContainerClass.id_from_string))


class BlockingEnv(Face[Env]):
    """The container classes among the app's bindings. The other bindings are for handlers, which run under Trio."""

    def __getattr__(self, name: str) -> BlockingContainers:
        value = getattr(self.inner, name)
        if isinstance(value, ContainerClass):
            return BlockingContainers(self.portal, value)
        raise AttributeError(f"env.{name}: only handlers can use it; here env has the container classes")


class BlockingNamespace(Face[NamespaceHandle]):
    """An attached network namespace, as `NamespaceHandle`."""

    @property
    def has_ended(self) -> bool:
        """Whether it was detached, or its namespace no longer exists."""
        return self.inner.has_ended

    stop = waits(NamespaceHandle.stop)


class BlockingRecords(Face[Subscription[R]], Generic[R]):
    """An iterator of records, for one thread, as `Subscription`."""

    def __iter__(self) -> Iterator[R]:
        return self

    def __next__(self) -> R:
        record: R | None = result_of(self.portal.call(next_of, self.inner))
        if record is None:
            raise StopIteration
        return record

    @property
    def dropped(self) -> int:
        """Count of records other than refusals that this subscriber missed."""
        return self.inner.dropped

    @property
    def dropped_refusals(self) -> int:
        """Count of refusals that this subscriber missed."""
        return self.inner.dropped_refusals


class BlockingInterceptor(Face[Interceptor]):
    """An interceptor for any thread, as `Interceptor`, which explains the methods.

    An image's own command isn't run if `get_container` is called with `replaced=True`: the container's first process
    only waits then, and `exec` and `start` run their commands as they are, without the image's entrypoint.
    """

    @property
    def env(self) -> BlockingEnv:
        """The app's container classes: `interceptor.env.SANDBOX.get_by_name("one")`."""
        return BlockingEnv(self.portal, self.inner.env)

    get_container = gives(in_trio(Interceptor.get_container), BlockingContainer)
    attach = gives(Interceptor.attach, BlockingNamespace)
    replace_policy = waits(Interceptor.replace_policy)
    count = waits(in_trio(Interceptor.count))
    count_queries = waits(in_trio(Interceptor.count_queries))

    @contextmanager
    def records(self, *kinds: type[R]) -> Iterator[BlockingRecords[R]]:
        """Subscribes to records of these types while the block lasts: iterate with `for`, in one thread."""
        with held_open(self.portal, self.inner.records(*kinds)) as subscription:
            yield BlockingRecords(self.portal, subscription)

    @contextmanager
    def log_records(self) -> Iterator[None]:
        """Logs each request, flow and refusal while the block lasts, as `Interceptor.log_records`."""
        with held_open(self.portal, self.inner.log_records()):
            yield


@contextmanager
def held_open(portal: Portal[Any], context: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """Opens an asynchronous context in Trio for the time of the block."""
    held = portal.hold(context)
    try:
        yield held.opened.result()
    finally:
        portal.soon(held.closing.set)
        held.closed.result()
