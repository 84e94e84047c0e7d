"""Withholds the body of a request until the store answers "100 Continue". RFC 9110 section 10.1.1.

So a store that hangs or is suspended, and resumes after the caller has given up, finds a request without a body and
carries out nothing. botocore sends "Expect: 100-continue", but waits only a second for the answer and then sends the
body anyway. So a body that is read later than that is withheld: the store hasn't asked for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from botocore.exceptions import HTTPClientError

WAITED = 1.0  # seconds that botocore waits for "100 Continue"
PIECE = 1024 * 1024  # bytes


T = TypeVar("T")


class NotAskedFor(Exception):
    """The store didn't ask for the body. No byte of it was sent, so the store can't have carried out the request."""


def hold_bodies(client: Any) -> None:
    """Withholds the bodies of all requests with "Expect: 100-continue" that this botocore client makes from now on."""
    client.meta.events.register("before-send.s3", _hold)


def _hold(request: Any, **_: Any) -> None:
    if "Expect" in request.headers and request.headers["Content-Length"] not in ("0", b"0"):
        request.body = _Held(request.body)


def until_asked_for(call: Callable[[], T], within: float) -> T:
    """Calls `call`, and repeats it while the store doesn't ask for the body.

    Raises NotAskedFor if the store hasn't asked within `within` seconds.
    """
    until = time.monotonic() + within - WAITED
    while True:
        try:
            return call()
        except HTTPClientError as error:
            cause = error.kwargs.get("error")
            if not isinstance(cause, NotAskedFor):
                raise
            if time.monotonic() >= until:
                raise cause from None


class _Held:
    """A body that is sent only if the store asks for it in time. urllib3 calls `iter` before it sends the head, and
    `next` after it."""

    def __init__(self, body: Any) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces(time.monotonic() + WAITED)

    def _pieces(self, until: float) -> Iterator[bytes]:
        if time.monotonic() >= until:
            raise NotAskedFor
        while piece := self._body.read(PIECE):
            yield piece

    def seek(self, offset: int) -> None:
        """Rewinds the body: botocore does this before it sends a request again."""
        self._body.seek(offset)
