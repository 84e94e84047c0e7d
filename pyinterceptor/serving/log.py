"""The log: a subscriber that writes one line for each request, flow and refusal; and warnings about containers.

Lines go to the logger "pyinterceptor", the container first. A container may cause RATE lines a second after a burst of
BURST; its refusals have a rate of their own, and so have its warnings and tracebacks. A line reports how many lines
were left out.
Text from a container is shown as it is if it is plain, and else quoted with escapes: it can neither forge a line nor
control a terminal.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from pyinterceptor.serving.channel import Channel, Subscription
from pyinterceptor.serving.lines import indented, line_of, sentence, shown, shown_owner
from pyinterceptor.serving.records import FlowRecord, Owner, Record, RefusalRecord, RequestRecord
from pyinterceptor.web import Request

RATE, BURST = 100, 200  # lines a second, and lines: requests and flows of one container
REFUSAL_RATE, REFUSAL_BURST = 20, 100  # the same: refusals
FAULT_RATE, FAULT_BURST = 20, 100  # the same: warnings and tracebacks
TRACEBACK = 10  # lines that a traceback counts as
SUMMARY = 1.0  # seconds between two reports of lines left out
RATES_KEPT = 1024  # containers whose rate is remembered although it is unused

log = logging.getLogger("pyinterceptor")


class Rate:
    """A token bucket. Times are in seconds of a monotonic clock."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._at = now

    def take(self, count: float, now: float) -> bool:
        """Takes `count` tokens. Returns False, and takes none, if the bucket has fewer."""
        self._left = self._left_at(now)
        self._at = now
        if self._left < count:
            return False
        self._left -= count
        return True

    def is_unused(self, now: float) -> bool:
        """Whether the bucket is full again."""
        return self._left_at(now) >= self._burst

    def _left_at(self, now: float) -> float:
        return min(self._burst, self._left + (now - self._at) * self._rate)


class Rates:
    """The same rate for each container."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._rates: dict[str, Rate] = {}  # by the container's id

    def take(self, owner: Owner, lines: int, now: float) -> bool:
        """Takes `count` lines of the container's rate. Returns False if that is used up."""
        rate = self._rates.get(owner.id)
        if rate is None:
            if len(self._rates) >= RATES_KEPT:
                self._rates = {id: rate for id, rate in self._rates.items() if not rate.is_unused(now)}
            rate = self._rates[owner.id] = Rate(self._rate, self._burst, now)
        return rate.take(lines, now)


class Log:
    """Writes lines about containers, each within its rate. Made by `open_log`."""

    def __init__(self) -> None:
        self._ordinary = Rates(RATE, BURST)
        self._refusals = Rates(REFUSAL_RATE, REFUSAL_BURST)
        self._faults = Rates(FAULT_RATE, FAULT_BURST)
        self._left_out: Counter[Owner] = Counter()
        self._has_left_out = trio.Event()

    def record(self, record: Record) -> None:
        """Writes the record's line, if it has one."""
        line = line_of(record)
        rates = self._refusals if isinstance(record, RefusalRecord) else self._ordinary
        if line is not None and self._may_write(record.container, rates, 1):
            log.info("%s %s", shown_owner(record.container), line)

    def fault(self, level: int, owner: Owner, line: str, error: BaseException | None = None) -> None:
        """Writes a line about a fault that the container can cause, with the traceback of `error`.

        Text from outside must be `shown` already.
        """
        if log.isEnabledFor(level) and self._may_write(owner, self._faults, TRACEBACK if error else 1):
            log.log(level, "%s %s", shown_owner(owner), line, exc_info=error)

    def report_left_out(self) -> None:
        """Writes one line for each container with omitted lines."""
        for owner, count in self._left_out.items():
            log.warning("%s %d lines left out: above the rate of one container", shown_owner(owner), count)
        self._left_out.clear()
        self._has_left_out = trio.Event()

    async def run(self) -> None:
        """Reports omitted lines, until cancelled."""
        while True:
            await self._has_left_out.wait()
            await trio.sleep(SUMMARY)
            self.report_left_out()

    def _may_write(self, owner: Owner, rates: Rates, lines: int) -> bool:
        if rates.take(owner, lines, trio.current_time()):
            return True
        self._left_out[owner] += 1
        self._has_left_out.set()
        return False


class Faults:
    """Logs the faults that one container can cause; implements `http.faults.Faults`."""

    def __init__(self, log: Log, owner: Owner) -> None:
        self._log = log
        self._owner = owner

    def info(self, what: str, error: BaseException, request: Request | None = None) -> None:
        """Logs a fault of a peer."""
        self._log.fault(logging.INFO, self._owner, f"{_subject(request)}{what}: {sentence(error)}")

    def warning(self, what: str, error: BaseException, request: Request | None = None) -> None:
        """Logs a fault of a service that the app uses."""
        self._log.fault(logging.WARNING, self._owner, f"{_subject(request)}{what}: {sentence(error)}")

    def error(self, what: str, error: BaseException, request: Request | None = None) -> None:
        """Logs a fault of the app or of this package, with its traceback."""
        self._log.fault(logging.ERROR, self._owner, f"{_subject(request)}{what}", error)


def _subject(request: Request | None) -> str:
    return "" if request is None else f"{shown(request.method)} {shown(str(request.url))}: "


@asynccontextmanager
async def open_log() -> AsyncIterator[Log]:
    """Opens a log that lasts as long as the block."""
    made = Log()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.run)
        try:
            yield made
        finally:
            nursery.cancel_scope.cancel()
            made.report_left_out()


@asynccontextmanager
async def log_records(channel: Channel, to: Log) -> AsyncIterator[None]:
    """Logs the records that are published during the block; all are written before it ends."""
    async with trio.open_nursery() as nursery:
        with channel.subscribe(FlowRecord, RequestRecord, RefusalRecord) as records:
            nursery.start_soon(_write_all, records, to)
            yield


async def _write_all(records: Subscription[Record], to: Log) -> None:
    try:
        async for record in records:
            to.record(record)
    finally:  # after a cancellation some records may still wait
        for record in records.take_nowait():
            to.record(record)
        if dropped := records.dropped + records.dropped_refusals:
            log.warning("%d records dropped: they came faster than they could be logged", dropped)


class SafeFormatter(logging.Formatter):
    """A formatter that escapes control characters and indents every line of a record but the first."""

    def format(self, record: logging.LogRecord) -> str:
        return indented(super().format(record))
