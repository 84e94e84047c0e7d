"""The pool of idle connections.

It only decides, without I/O: it returns the connections that the caller must close. Times are seconds of any one clock.
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

IDLE_SECONDS = 30.0  # most servers keep an idle connection longer, so few of ours turn out to be closed
IDLE_PER_ORIGIN = 32
IDLE_ALL = 256

C = TypeVar("C")


class Origin(NamedTuple):
    """A key of the pool: connections with an equal origin are interchangeable.

    So it includes all that determines the dialled address: `local` permits local addresses, and `at` is an address to
    use instead of those of the name.
    """

    scheme: str
    host: str
    port: int
    local: bool
    at: str | None = None


class Pool(Generic[C]):
    """Idle connections by origin, each with the time at which it became idle."""

    def __init__(self) -> None:
        self._idle: dict[Origin, list[tuple[float, C]]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def take(self, origin: Origin) -> C | None:
        """Removes and returns the origin's most recently used connection, which is the least likely to be closed; None
        if it has no idle connection."""
        return self._pop(origin, -1) if origin in self._idle else None

    def put(self, origin: Origin, connection: C, now: float) -> C | None:
        """Adds an idle connection. Returns a connection to close if a limit is exceeded, else None."""
        self._idle.setdefault(origin, []).append((now, connection))
        self._count += 1
        if len(self._idle[origin]) > IDLE_PER_ORIGIN:
            return self._pop(origin, 0)
        return self.oldest() if self._count > IDLE_ALL else None

    def oldest(self) -> C | None:
        """Removes and returns the connection that has been idle longest; None if there are no idle connections."""
        if not self._idle:
            return None
        return self._pop(min(self._idle, key=lambda origin: self._idle[origin][0][0]), 0)

    def expired(self, now: float) -> list[C]:
        """Removes and returns the connections that have been idle for IDLE_SECONDS."""
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
