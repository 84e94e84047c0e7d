"""A thread's deadlines are ordered: the earliest is always the first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from pyinterceptor._relay import ffi, lib

COUNT = 12
MOVES = st.lists(st.tuples(st.integers(0, COUNT - 1), st.none() | st.floats(0, 100)), max_size=60)


@given(MOVES)
def test_the_first_timer_is_the_earliest_that_is_set(moves: list[tuple[int, float | None]]) -> None:
    timers, pool = ffi.new("struct timers *"), ffi.new(f"struct timer[{COUNT}]")
    assert lib.timers_reserve(timers, COUNT)
    due: dict[int, float] = {}
    for which, when in moves:
        if when is None:
            lib.timer_clear(timers, pool + which)
            due.pop(which, None)
        else:
            lib.timer_set(timers, pool + which, when)
            due[which] = when
        first = lib.timers_first(timers)
        assert (first.when if first != ffi.NULL else None) == min(due.values(), default=None)
        assert timers.count == len(due)
    lib.timers_free(timers)
