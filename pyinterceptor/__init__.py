"""Outbound traffic of containers, in the hands of Python.

Containers open ordinary connections. The kernel steers them to this process; traffic that matches no rule passes at the
speed of a splice, and a request that matches one is answered by a handler, outside the container.

Declare a class of containers, its handlers, and an app:

    from pyinterceptor import KV, App, Container, Response, fetch

    class Sandbox(Container):
        enable_internet = False

    @Sandbox.outbound_by_host("my.kv")
    async def greetings(request, env, ctx):
        value = await env.KV.get(request.url.path.lstrip("/"))
        return Response(value or "", status=200 if value is not None else 404)

    @Sandbox.outbound
    async def everything_else(request, env, ctx):
        return await fetch(request)

    app = App(containers=[Sandbox], bindings={"KV": KV()})

Run a command under its rules, as root:

    pyinterceptor run app.py -- curl -s http://my.kv/greeting

Or from a program, under Trio:

    async with open_interceptor(app) as interceptor:
        container = interceptor.get_container(Sandbox, "one")
        finished = await container.exec("curl -s http://my.kv/greeting")
        await interceptor.replace_policy(Sandbox)  # rules that were assigned meanwhile, for open connections too
        await container.stop()

`open_in_thread(app)` serves programs without Trio: blocking under `with`, for asyncio under `async with`.

`help(Container)`, `help(open_interceptor)`, `help(Interceptor)` and `help(ContainerHandle)` describe the rest. Errors
are `InterceptorError`s; the message names the step, the thing and the remedy.
"""

from pyinterceptor.app.app import App
from pyinterceptor.app.asgi import asgi
from pyinterceptor.app.container import Container, ContainerContext, Context, Handler
from pyinterceptor.app.entrypoint import WorkerEntrypoint
from pyinterceptor.bindings import KV, Quota, R2Bucket, Secret
from pyinterceptor.dns.resolver import QueryCounters
from pyinterceptor.errors import (
    BadArgument,
    BindingError,
    CaptureError,
    DialRefused,
    FetchError,
    InterceptorError,
    PeerError,
    PolicyError,
    RuntimeFailure,
)
from pyinterceptor.faces.blocking import (
    BlockingContainer,
    BlockingInterceptor,
    BlockingNamespace,
    BlockingRecords,
    BlockingRunning,
    BlockingStream,
)
from pyinterceptor.faces.for_asyncio import (
    AsyncioContainer,
    AsyncioInterceptor,
    AsyncioNamespace,
    AsyncioRecords,
    AsyncioRunning,
    AsyncioStream,
)
from pyinterceptor.faces.opening import open_in_thread
from pyinterceptor.http.fetch import fetch
from pyinterceptor.opening import open_interceptor
from pyinterceptor.policy.budget import Budget
from pyinterceptor.relay.relay import Counters, Options
from pyinterceptor.runtime.process import CommandNotRun, Finished, Running
from pyinterceptor.serving.handle import ContainerHandle, NamespaceHandle
from pyinterceptor.serving.interceptor import Interceptor
from pyinterceptor.serving.records import FlowRecord, NameRecord, RefusalRecord, RequestRecord
from pyinterceptor.serving.ruled import RuledNames
from pyinterceptor.version import VERSION as __version__
from pyinterceptor.web import URL, Headers, Request, Response

__all__ = [
    "KV",
    "URL",
    "App",
    "AsyncioContainer",
    "AsyncioInterceptor",
    "AsyncioNamespace",
    "AsyncioRecords",
    "AsyncioRunning",
    "AsyncioStream",
    "BadArgument",
    "BindingError",
    "BlockingContainer",
    "BlockingInterceptor",
    "BlockingNamespace",
    "BlockingRecords",
    "BlockingRunning",
    "BlockingStream",
    "Budget",
    "CaptureError",
    "CommandNotRun",
    "Container",
    "ContainerContext",
    "ContainerHandle",
    "Context",
    "Counters",
    "DialRefused",
    "FetchError",
    "Finished",
    "FlowRecord",
    "Handler",
    "Headers",
    "Interceptor",
    "InterceptorError",
    "NameRecord",
    "NamespaceHandle",
    "Options",
    "PeerError",
    "PolicyError",
    "QueryCounters",
    "Quota",
    "R2Bucket",
    "RefusalRecord",
    "Request",
    "RequestRecord",
    "Response",
    "RuledNames",
    "Running",
    "RuntimeFailure",
    "Secret",
    "WorkerEntrypoint",
    "__version__",
    "asgi",
    "fetch",
    "open_in_thread",
    "open_interceptor",
]
