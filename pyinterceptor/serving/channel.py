"""Carries records to subscribers. Publishing never waits; records that a slow subscriber misses are counted.

All of it belongs to Trio's thread. A record is built only `if channel.is_wanted(its type)`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar, cast

import trio

from pyinterceptor.serving.records import Record, RefusalRecord

HELD = 8192  # records that wait for one subscriber: about 4 MiB
REFUSALS_HELD = 2048  # refusals that wait beside them
CHECKPOINT_EVERY = 64  # records in a row

R = TypeVar("R", bound=Record)


class Share:
    """Waiting records, oldest first. One container may hold as many records as there are free places.

    One flooding container thus gets half the places, two get a third each, and other containers still find room.
    """

    def __init__(self, most: int) -> None:
        self.waiting: deque[tuple[int, Record]] = deque()  # with a serial number
        self.dropped = 0
        self._most = most
        self._held: Counter[str] = Counter()  # by the container's id

    def put(self, serial: int, record: Record) -> None:
        """Keeps the record, or counts it as dropped."""
        owner = record.container.id
        if self._held[owner] >= self._most - len(self.waiting):
            self.dropped += 1
            return
        self._held[owner] += 1
        self.waiting.append((serial, record))

    def take(self) -> Record:
        """Takes the oldest record. Raises IndexError if there is none."""
        _, record = self.waiting.popleft()
        owner = record.container.id
        self._held[owner] -= 1
        if not self._held[owner]:
            del self._held[owner]
        return record


class Subscription(Generic[R]):
    """An asynchronous iterator of records in the order of their publication, for one task.

    Iteration ends when the subscription is closed and the records that wait are taken.
    """

    def __init__(self, kinds: frozenset[type[Record]], held: int) -> None:
        self.kinds = kinds
        self._others = Share(held)
        self._refusals = Share(REFUSALS_HELD)
        self._lost: Counter[type[Record]] = Counter()
        self._serial = 0
        self._given = 0
        self._is_closed = False
        self._changed = trio.Event()

    @property
    def dropped(self) -> int:
        """Count of records other than refusals that this subscriber missed."""
        return self._others.dropped + self._lost.total() - self._lost[RefusalRecord]

    @property
    def dropped_refusals(self) -> int:
        """Count of refusals that this subscriber missed."""
        return self._refusals.dropped + self._lost[RefusalRecord]

    def __aiter__(self) -> Subscription[R]:
        return self

    async def __anext__(self) -> R:
        while not self._has_waiting():
            if self._is_closed:
                raise StopAsyncIteration
            self._changed = trio.Event()
            await self._changed.wait()
        self._given += 1
        if self._given % CHECKPOINT_EVERY == 0:
            await trio.lowlevel.checkpoint()
        return self._take()

    def take_nowait(self) -> list[R]:
        """Takes all waiting records."""
        taken = []
        while self._has_waiting():
            taken.append(self._take())
        return taken

    def put(self, record: Record) -> None:
        """Adds a record. Called by the channel."""
        self._serial += 1
        (self._refusals if isinstance(record, RefusalRecord) else self._others).put(self._serial, record)
        self._changed.set()

    def lose(self, kind: type[Record], count: int) -> None:
        """Counts records that were dropped before they were built. Called by the channel."""
        self._lost[kind] += count

    def close(self) -> None:
        """Ends the iteration after the waiting records. Called by the channel."""
        self._is_closed = True
        self._changed.set()

    def _has_waiting(self) -> bool:
        return bool(self._refusals.waiting or self._others.waiting)

    def _take(self) -> R:
        refusals, others = self._refusals, self._others
        is_refusal_first = refusals.waiting and (not others.waiting or refusals.waiting[0][0] < others.waiting[0][0])
        return cast("R", (refusals if is_refusal_first else others).take())


class Channel:
    """All subscriptions of one interceptor. `changed(kinds)` is called when the set of wanted types changes."""

    def __init__(self, changed: Callable[[frozenset[type[Record]]], None] | None = None) -> None:
        self._changed = changed
        self._subscriptions: list[Subscription[Any]] = []
        self._wanted: frozenset[type[Record]] = frozenset()

    def is_wanted(self, kind: type[Record]) -> bool:
        """Whether a subscriber wants records of this type."""
        return kind in self._wanted

    def publish(self, record: Record) -> None:
        """Delivers the record to every subscriber of its type."""
        kind = type(record)
        for subscription in self._subscriptions:
            if kind in subscription.kinds:
                subscription.put(record)

    def lose(self, kind: type[Record], count: int) -> None:
        """Counts records of this type that were dropped before they were built."""
        for subscription in self._subscriptions:
            if kind in subscription.kinds:
                subscription.lose(kind, count)

    @contextmanager
    def subscribe(self, *kinds: type[R], held: int = HELD) -> Iterator[Subscription[R]]:
        """Subscribes to these types; at most `held` records wait. Refusals have room of their own."""
        subscription = Subscription[R](frozenset(cast("tuple[type[Record], ...]", kinds)), held)
        self._subscriptions.append(subscription)
        self._update()
        try:
            yield subscription
        finally:
            self._subscriptions.remove(subscription)
            subscription.close()
            self._update()

    def _update(self) -> None:
        wanted = frozenset[type[Record]]().union(*(one.kinds for one in self._subscriptions))
        if wanted != self._wanted:
            self._wanted = wanted
            if self._changed is not None:
                self._changed(wanted)
