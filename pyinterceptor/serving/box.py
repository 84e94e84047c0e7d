"""A running container, whatever runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import trio

from pyinterceptor.runtime import Finished, NetnsContainer, PodmanContainer, Running


class Box:
    """A running container, as `get_container` gives it."""

    def __init__(self, workload: NetnsContainer | PodmanContainer) -> None:
        self._workload = workload
        self.stopping = trio.Event()
        self.gone = trio.Event()

    @property
    def has_ended(self) -> bool:
        """Whether it is stopped, or its first process has ended; `get_container` gives a fresh one then."""
        return self.stopping.is_set() or self._workload.has_ended

    @property
    def pid(self) -> int:
        """Of the process on the host whose end is the container's, and whose namespaces are."""
        return self._workload.pid

    async def exec(self, argv: str | Sequence[str], **options: Any) -> Finished:
        """Runs a command to its end inside; a string is split as a shell would.

        Returns a `Finished`: returncode, stdout, stderr (bytes).
        """
        return await self._workload.exec(argv, **options)

    async def start(self, argv: str | Sequence[str], **options: Any) -> Running:
        """Starts a long-lived command inside; returns it running."""
        return await self._workload.start(argv, **options)

    async def run_inherited(self, argv: Sequence[str], **options: Any) -> int:
        """Runs a command on our own streams and terminal; returns its exit code (128+n: ended by signal n)."""
        return await self._workload.run_inherited(argv, **options)

    async def stop(self) -> None:
        """Ends everything inside, then the container; returns when it is gone. Twice is no error."""
        self.stopping.set()
        await self.gone.wait()
