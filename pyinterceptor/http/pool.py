"""Connections that wait for their next request.

Decides, does no I/O: the caller closes what it is given to close. Times are seconds of any one clock.
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

IDLE_SECONDS = 30.0  # most servers wait longer for the next request, so few of ours turn out to be dead
IDLE_PER_ORIGIN = 32
IDLE_ALL = 256

C = TypeVar("C")


class Origin(NamedTuple):
    """Connections to the same origin are interchangeable. What decides what is dialled is part of it: `local`, and
    `at`, the address to use whatever the name's own are."""

    scheme: str
    host: str
    port: int
    local: bool
    at: str | None = None


class Pool(Generic[C]):
    """Idle connections by origin, each with the time it came back."""

    def __init__(self) -> None:
        self._idle: dict[Origin, list[tuple[float, C]]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def take(self, origin: Origin) -> C | None:
        """The connection used last, which is the least likely to be dead."""
        return self._pop(origin, -1) if origin in self._idle else None

    def put(self, origin: Origin, connection: C, now: float) -> C | None:
        """Keeps the connection; returns the one that has to go for it, if any."""
        self._idle.setdefault(origin, []).append((now, connection))
        self._count += 1
        if len(self._idle[origin]) > IDLE_PER_ORIGIN:
            return self._pop(origin, 0)
        return self.oldest() if self._count > IDLE_ALL else None

    def oldest(self) -> C | None:
        """Gives up the connection that has been idle longest."""
        if not self._idle:
            return None
        return self._pop(min(self._idle, key=lambda origin: self._idle[origin][0][0]), 0)

    def expired(self, now: float) -> list[C]:
        """Gives up the connections that were idle for too long."""
        gone = []
        for origin in list(self._idle):
            while origin in self._idle and now - self._idle[origin][0][0] >= IDLE_SECONDS:
                gone.append(self._pop(origin, 0))
        return gone

    def _pop(self, origin: Origin, place: int) -> C:
        idle = self._idle[origin]
        _, connection = idle.pop(place)
        self._count -= 1
        if not idle:
            del self._idle[origin]
        return connection
