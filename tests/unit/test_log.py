"""The log: each container has a rate, omitted lines are counted, and no container controls the terminal."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

import pytest
import trio
import trio.testing

from pyinterceptor.errors import FetchError
from pyinterceptor.serving.channel import Channel
from pyinterceptor.serving.log import (
    BURST,
    FAULT_BURST,
    RATE,
    RATES_KEPT,
    REFUSAL_BURST,
    SUMMARY,
    TRACEBACK,
    Faults,
    Rates,
    SafeFormatter,
    log_records,
    open_log,
)
from pyinterceptor.serving.records import Owner, RefusalRecord
from tests.unit.recorded import ONE, TWO, flow, name, refusal, request


def in_trio(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @wraps(test)
    def run(**fixtures: Any) -> None:
        async def main() -> None:
            await test(**fixtures)

        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

    return run


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "pyinterceptor"]


@in_trio
async def test_every_record_is_a_line_that_begins_with_its_container(caplog):
    channel = Channel()
    async with open_log() as log, log_records(channel, log):
        for record in (flow(), request(TWO), refusal()):
            channel.publish(record)
    assert [line.split()[:2] for line in lines(caplog)] == [
        ["Sandbox/one", "flow"],
        ["Sandbox/two", "request"],
        ["Sandbox/one", "refused"],
    ]


@in_trio
async def test_names_are_not_wanted_for_the_log():
    channel = Channel()
    async with open_log() as log, log_records(channel, log):
        assert channel.is_wanted(RefusalRecord)
        assert not channel.is_wanted(type(name()))


@in_trio
async def test_a_flooding_container_gets_its_burst_and_a_line_counts_the_omitted_lines(caplog):
    async with open_log() as log:
        for _ in range(5000):
            log.record(flow())
        log.record(flow(TWO))
        await trio.sleep(SUMMARY)
        await trio.testing.wait_all_tasks_blocked()
        told = lines(caplog)
    assert sum(line.startswith("Sandbox/one flow") for line in told) == BURST
    assert sum(line.startswith("Sandbox/two flow") for line in told) == 1
    assert told[-1] == f"Sandbox/one {5000 - BURST} lines left out: above the rate of one container"


@in_trio
async def test_lines_omitted_at_the_end_are_reported(caplog):
    async with open_log() as log:
        for _ in range(BURST + 7):
            log.record(flow())
    assert lines(caplog)[-1] == "Sandbox/one 7 lines left out: above the rate of one container"


@in_trio
async def test_the_rate_holds_for_as_long_as_the_flood_lasts(caplog):
    async with open_log() as log:
        for _ in range(10 * 100):
            for _ in range(10):
                log.record(flow())
            await trio.sleep(0.01)
    written = sum("flow" in line for line in lines(caplog))
    assert BURST + 9 * RATE <= written <= BURST + 10 * RATE + 1


@in_trio
async def test_a_flood_of_flows_leaves_the_lines_of_refusals_and_warnings(caplog):
    async with open_log() as log:
        for _ in range(5000):
            log.record(flow())
        log.record(refusal())
        Faults(log, ONE).warning("the handler's fetch failed", FetchError("a\nb"))
    told = lines(caplog)
    assert "Sandbox/one the handler's fetch failed: a\\nb" in told
    assert sum("refused" in line for line in told) == 1


@in_trio
async def test_floods_of_warnings_and_tracebacks_leave_the_lines_of_refusals(caplog, expected_errors):
    async with open_log() as log:
        for owner in (ONE, TWO):
            for _ in range(1000):
                Faults(log, owner).warning("failed", FetchError("of the test"))
                Faults(log, owner).error("the handler failed", ValueError("of the test"))
        for _ in range(REFUSAL_BURST + 7):
            log.record(refusal())
        log.record(refusal(TWO))
    told = lines(caplog)
    assert sum(line.startswith("Sandbox/one refused") for line in told) == REFUSAL_BURST
    assert sum(line.startswith("Sandbox/two refused") for line in told) == 1


@in_trio
async def test_a_flood_of_refusals_leaves_the_lines_of_warnings(caplog):
    async with open_log() as log:
        for _ in range(1000):
            log.record(refusal())
        Faults(log, ONE).warning("the handler's fetch failed", FetchError("of the test"))
    assert sum("the handler's fetch failed" in line for line in lines(caplog)) == 1


@in_trio
async def test_warnings_and_tracebacks_have_a_rate(caplog, expected_errors):
    async with open_log() as log:
        for _ in range(1000):
            Faults(log, ONE).warning("failed", FetchError("of the test"))
        for _ in range(1000):
            Faults(log, TWO).error("the handler failed", ValueError("of the test"))
    told = [record for record in caplog.records if "failed" in record.getMessage()]
    assert sum(record.levelno == logging.WARNING for record in told) == FAULT_BURST
    assert sum(record.exc_info is not None for record in told) == FAULT_BURST // TRACEBACK
    omitted = 1000 - FAULT_BURST // TRACEBACK
    assert lines(caplog)[-1] == f"Sandbox/two {omitted} lines left out: above the rate of one container"


@in_trio
async def test_records_that_wait_are_written_when_the_log_is_cancelled(caplog):
    channel = Channel()
    with trio.CancelScope() as scope:
        async with open_log() as log, log_records(channel, log):
            channel.publish(flow())
            scope.cancel()
            await trio.sleep_forever()
    assert len(lines(caplog)) == 1


@in_trio
async def test_dropped_records_are_reported(caplog):
    channel = Channel()
    async with open_log() as log, log_records(channel, log):
        channel.lose(RefusalRecord, 3)
    assert lines(caplog) == ["3 records dropped: they came faster than they could be logged"]


def test_rates_of_containers_that_are_gone_are_forgotten():
    rates = Rates(RATE, BURST)
    for number in range(3 * RATES_KEPT):
        assert rates.take(Owner("Sandbox", "", str(number)), 1, now=float(number))
    assert len(rates._rates) <= RATES_KEPT


def test_no_logged_text_controls_the_terminal():
    try:
        raise ValueError("forged\nSandbox/two flow \x1b[2J\x9b")
    except ValueError as error:
        record = logging.LogRecord("pyinterceptor", logging.ERROR, "", 0, "%s", ("a\nb\x07",), (None, error, None))
    first, *others = SafeFormatter("%(message)s").format(record).split("\n")
    assert first == "a"
    assert all(line.startswith("  ") and line.isprintable() for line in others)
