"""The channel of records: bounded, counted, fair between containers, with room of its own for refusals."""

from __future__ import annotations

import dataclasses
import timeit

import pytest
import trio
import trio.testing

from pyinterceptor.serving.channel import HELD, REFUSALS_HELD, Channel
from pyinterceptor.serving.records import FlowRecord, NameRecord, Owner, RefusalRecord, RequestRecord
from tests.unit.recorded import TWO, flow, name, refusal, request


def test_a_record_is_frozen():
    for record in (flow(), request(), refusal(), name()):
        with pytest.raises(dataclasses.FrozenInstanceError):
            record.rule = "another"  # type: ignore[misc]


def test_nothing_is_wanted_before_and_after_a_subscription():
    told: list[frozenset[type]] = []
    channel = Channel(told.append)
    assert not channel.is_wanted(FlowRecord)
    with channel.subscribe(FlowRecord), channel.subscribe(FlowRecord, NameRecord):
        assert channel.is_wanted(FlowRecord)
        assert channel.is_wanted(NameRecord)
        assert not channel.is_wanted(RequestRecord)
    assert not channel.is_wanted(FlowRecord)
    flows, both = frozenset({FlowRecord}), frozenset({FlowRecord, NameRecord})
    assert told == [flows, both, flows, frozenset()]


def test_a_subscriber_gets_the_records_of_its_kinds_in_their_order():
    channel = Channel()
    published = [flow(), refusal(), name(), request(), refusal(host="b.example"), flow(number=2)]
    with channel.subscribe(FlowRecord, RefusalRecord) as some, channel.subscribe(NameRecord, RequestRecord) as others:
        for record in published:
            channel.publish(record)
        assert some.take_nowait() == [published[i] for i in (0, 1, 4, 5)]
        assert others.take_nowait() == [published[2], published[3]]
        assert some.take_nowait() == []


def test_a_flood_of_flows_hides_no_refusal():
    channel = Channel()
    with channel.subscribe(FlowRecord, RefusalRecord) as records:
        for number in range(3 * HELD):
            channel.publish(flow(number=number))
        channel.publish(refusal())
        channel.publish(flow())
        assert records.take_nowait()[-1] == refusal()
        assert records.dropped == 3 * HELD + 1 - HELD // 2
        assert records.dropped_refusals == 0


def test_refusals_are_bounded_and_counted_apart():
    channel = Channel()
    with channel.subscribe(RefusalRecord) as records:
        for _ in range(REFUSALS_HELD):
            channel.publish(refusal())
        assert len(records.take_nowait()) == REFUSALS_HELD // 2
        assert (records.dropped, records.dropped_refusals) == (0, REFUSALS_HELD // 2)


def test_a_flood_of_one_container_hides_no_record_of_another():
    channel = Channel()
    with channel.subscribe(FlowRecord, held=100) as records:
        for _ in range(1000):
            channel.publish(flow())
        for number in range(20):
            channel.publish(flow(TWO, number))
        assert [record.flow for record in records.take_nowait() if record.container is TWO] == list(range(20))
        assert records.dropped == 950


def test_many_floods_leave_room_for_one_more_container():
    channel = Channel()
    with channel.subscribe(FlowRecord, held=1000) as records:
        for _ in range(1000):
            for number in range(20):
                channel.publish(flow(Owner("Sandbox", str(number), str(number))))
        channel.publish(flow(TWO))
        assert records.take_nowait()[-1].container is TWO


def test_a_taken_record_frees_its_place():
    channel = Channel()
    with channel.subscribe(FlowRecord, held=10) as records:
        for _ in range(100):
            channel.publish(flow())
            assert records.take_nowait() == [flow()]
        assert records.dropped == 0


def test_each_subscriber_has_its_own_bound():
    channel = Channel()
    with channel.subscribe(FlowRecord, held=10) as slow, channel.subscribe(FlowRecord, held=1000) as quick:
        for _ in range(100):
            channel.publish(flow())
        assert (slow.dropped, quick.dropped) == (95, 0)


def test_records_lost_before_they_were_built_are_counted():
    channel = Channel()
    with channel.subscribe(FlowRecord, RefusalRecord) as records, channel.subscribe(NameRecord) as names:
        channel.lose(FlowRecord, 3)
        channel.lose(RefusalRecord, 2)
        assert (records.dropped, records.dropped_refusals) == (3, 2)
        assert (names.dropped, names.dropped_refusals) == (0, 0)


def test_iteration_waits_for_records_and_ends_with_the_subscription():
    async def main() -> list[FlowRecord]:
        channel, got = Channel(), list[FlowRecord]()

        async def collect() -> None:
            async for record in records:
                got.append(record)

        async with trio.open_nursery() as nursery:
            with channel.subscribe(FlowRecord) as records:
                nursery.start_soon(collect)
                await trio.testing.wait_all_tasks_blocked()
                channel.publish(flow(number=1))
                await trio.testing.wait_all_tasks_blocked()
                assert [record.flow for record in got] == [1]
                channel.publish(flow(number=2))
            channel.publish(flow(number=3))
        return got

    assert [record.flow for record in trio.run(main)] == [1, 2]


def test_a_cancelled_iteration_loses_no_record():
    async def main() -> None:
        channel = Channel()
        with channel.subscribe(FlowRecord) as records:
            with trio.move_on_after(0):
                await anext(records)
            for number in range(200):
                channel.publish(flow(number=number))
            got = []
            while len(got) < 200:
                with trio.CancelScope() as scope:
                    scope.cancel()  # raised only at a checkpoint
                    while len(got) < 200:
                        got.append((await anext(records)).flow)
                    break
                with trio.CancelScope():
                    got.append((await anext(records)).flow)
        assert got == list(range(200))

    trio.run(main)


def test_iterating_runs_checkpoints_for_other_tasks():
    async def main() -> int:
        channel, turns = Channel(), 0

        async def other() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            with channel.subscribe(FlowRecord, held=10_000) as records:
                for _ in range(1000):
                    channel.publish(flow())
                for _ in range(1000):
                    await anext(records)
            nursery.cancel_scope.cancel()
        return turns

    assert trio.run(main) >= 10


def test_a_record_without_a_subscriber_costs_less_than_a_microsecond():
    channel = Channel()
    best = min(timeit.repeat(lambda: channel.is_wanted(RequestRecord), number=10_000, repeat=5)) / 10_000
    assert best < 1e-6
