"""A foreign network namespace, which determines how long its container lasts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from pyinterceptor.arguments import is_path
from pyinterceptor.capture.capture import Attachment, Capture
from pyinterceptor.errors import CaptureError

Netns = int | str | os.PathLike[str]


class Namespace:
    """A Life: the container lasts as long as the namespace. Its processes are not ours."""

    def __init__(self, capture: Capture, attachment: Attachment) -> None:
        self.has_ended = False
        self._capture = capture
        self._attachment = attachment

    async def wait_until_ended(self) -> None:
        await self._capture.wait_until_gone(self._attachment)
        self.has_ended = True

    async def stop(self) -> None:
        """Detaches the namespace; its processes go on."""
        self.has_ended = True
        await self._capture.detach(self._attachment)


@contextmanager
def opened(netns: Netns) -> Iterator[int]:
    """Opens the namespace by its path, or uses the given descriptor. Nothing of ours keeps it alive afterwards.

    Raises CaptureError.
    """
    if isinstance(netns, int):
        try:
            os.fstat(netns)
        except (OSError, OverflowError) as error:
            raise CaptureError(f"attach a namespace: descriptor {netns}: {error}") from error
        yield netns
        return
    if not is_path(netns):
        raise CaptureError(f"attach a namespace: give its path or an open descriptor, not {netns!r}")
    try:
        fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CaptureError(f"attach a namespace: open {os.fspath(netns)}: {error.strerror}") from error
    try:
        yield fd
    finally:
        os.close(fd)
