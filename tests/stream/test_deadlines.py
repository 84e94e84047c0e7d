"""Deadlines that one task watches."""

import math

import trio

from pyinterceptor.http.deadlines import PERIOD, Deadlines
from tests.stream.dialogue import in_trio


@in_trio
async def test_each_scope_is_cancelled_when_its_own_deadline_has_come() -> None:
    ended: dict[float, float] = {}
    deadlines = Deadlines()

    async def wait(seconds: float) -> None:
        with trio.CancelScope() as scope, deadlines.watch(scope) as deadline:
            deadline.expires = deadlines.now + seconds
            await trio.sleep_forever()
        ended[seconds] = trio.current_time()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(deadlines.run)
        for _ in range(2):  # the second time after a pause without any deadline
            began = trio.current_time()
            async with trio.open_nursery() as waiting:
                for seconds in (1, 2.3, 75):
                    waiting.start_soon(wait, seconds)
            for seconds, at in ended.items():
                assert seconds - PERIOD <= at - began <= seconds + PERIOD
            await trio.sleep(100)
        nursery.cancel_scope.cancel()


@in_trio
async def test_a_deadline_may_be_moved_either_way_and_taken_back() -> None:
    deadlines = Deadlines()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deadlines.run)
        with trio.CancelScope() as scope, deadlines.watch(scope) as deadline:
            for seconds in (5, 100, 5, math.inf):
                deadline.expires = deadlines.now + seconds
                await trio.sleep(4)
            await trio.sleep(1000)
            deadline.expires = deadlines.now + 5
            began = trio.current_time()
            await trio.sleep(1000)
        assert 5 - PERIOD <= trio.current_time() - began <= 5 + PERIOD
        nursery.cancel_scope.cancel()
