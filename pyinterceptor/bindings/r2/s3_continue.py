"""A store gets an object's bytes once it has asked for them: "100 Continue", RFC 9110 section 10.1.1.

So a store that hangs, or is stopped, has nothing that it could do after we have given up on it: when it goes on, it
finds a request without its body. botocore offers them so, but waits a second for the answer and then sends them all the
same: a body that is read later than that was not asked for, and is withheld.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from botocore.exceptions import HTTPClientError

WAITED = 1.0  # seconds, by botocore
PIECE = 1024 * 1024  # bytes


T = TypeVar("T")


class NotAskedFor(Exception):
    """Nothing of the body was sent, so the request wasn't done."""


def hold_bodies(client: Any) -> None:
    """From now on, for all requests of this botocore client that offer one."""
    client.meta.events.register("before-send.s3", _hold)


def _hold(request: Any, **_: Any) -> None:
    if "Expect" in request.headers and request.headers["Content-Length"] not in ("0", b"0"):
        request.body = _Held(request.body)


def until_asked_for(call: Callable[[], T], within: float) -> T:
    """Makes a request again as long as the store doesn't ask for its body, for so many seconds. Raises: NotAskedFor."""
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
    """What of a file is sent. urllib3 calls `iter` before it sends the head, `next` after it."""

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
        """botocore rewinds what it may send again."""
        self._body.seek(offset)
