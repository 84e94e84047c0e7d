"""Outbound traffic of containers, in the hands of Python."""

from pyinterceptor.app.app import App
from pyinterceptor.app.container import Container, Context
from pyinterceptor.bindings import KV, R2Bucket, Secret
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
from pyinterceptor.http.fetch import fetch
from pyinterceptor.opening import open_interceptor
from pyinterceptor.policy.budget import Budget
from pyinterceptor.serving.records import FlowRecord, NameRecord, RefusalRecord, RequestRecord
from pyinterceptor.web import URL, Headers, Request, Response

__all__ = [
    "KV",
    "URL",
    "App",
    "BadArgument",
    "BindingError",
    "Budget",
    "CaptureError",
    "Container",
    "Context",
    "DialRefused",
    "FetchError",
    "FlowRecord",
    "Headers",
    "InterceptorError",
    "NameRecord",
    "PeerError",
    "PolicyError",
    "R2Bucket",
    "RefusalRecord",
    "Request",
    "RequestRecord",
    "Response",
    "RuntimeFailure",
    "Secret",
    "fetch",
    "open_interceptor",
]
