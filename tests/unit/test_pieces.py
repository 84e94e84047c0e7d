"""Work in pieces has the same result as at once, and no piece holds Trio's loop."""

import gc
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

import trio
from hypothesis import given
from hypothesis import strategies as st

from pyinterceptor.app.app import App
from pyinterceptor.app.container import Container
from pyinterceptor.policy import pieces
from pyinterceptor.policy.pieces import at_once, in_order
from pyinterceptor.serving.turns import in_turns
from pyinterceptor.web import Response

STALL_MAX = 0.005  # seconds of processor time, which excludes other work of this machine


async def answer(request, env, ctx):
    return Response("")


class Large(Container):
    """10 000 hosts that are not sorted, and 1 000 networks."""

    outbound_by_host = {f"{random.Random(number).randrange(2**48):x}.test": answer for number in range(10_000)}
    local_networks = [f"10.{number // 250}.{number % 250}.0/24" for number in range(1000)]


@contextmanager
def frozen() -> Iterator[None]:
    """Makes the collector skip the objects of other tests, which can be any number."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def test_reading_a_large_policy_lets_other_tasks_run_every_few_milliseconds():
    """One run of ten is enough: other work of the machine lengthens a different piece each time."""
    app = App(containers=[Large])

    async def longest_gap() -> float:
        gaps: list[float] = []

        async def beside(scope: trio.CancelScope) -> None:
            with scope:
                while True:
                    before = time.thread_time()
                    await trio.lowlevel.checkpoint()
                    gaps.append(time.thread_time() - before)

        scope = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(beside, scope)
            policy = await in_turns(app.reading(Large, 2))
            scope.cancel()
        assert policy == app.policy(Large, 2)
        assert len(gaps) > 50
        return max(gaps)

    with frozen():
        assert any(trio.run(longest_gap) < STALL_MAX for _ in range(10))


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers())))
def test_items_sorted_in_pieces_are_sorted_and_equal_ones_keep_their_order(items):
    kept = pieces.RUN
    pieces.RUN = 3
    try:
        assert at_once(in_order(items, lambda item: item[0])) == sorted(items, key=lambda item: item[0])
    finally:
        pieces.RUN = kept
