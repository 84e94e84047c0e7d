"""Places in a pool: no container uses up another's reserve, or keeps another from joining."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyinterceptor._relay import ffi, lib

TOTAL, RESERVE, LIMIT = 320, 20, 200


@pytest.fixture
def pool() -> Iterator[Any]:
    made = ffi.new("struct pool *")
    lib.pool_open(made, TOTAL)
    yield made
    lib.pool_close(made)


def joined(pool: Any, reserve: int = RESERVE, limit: int = LIMIT) -> Any:
    """Returns a holding that has joined; None if no reserve is left."""
    holding = ffi.new("struct holding *")
    return holding if lib.holding_join(holding, pool, reserve, limit) else None


def fill(holding: Any) -> int:
    """Takes places one by one until none is left. Returns their number."""
    count = 0
    while lib.places_take(holding, 1):
        count += 1
    return count


def test_a_container_gets_at_most_its_limit(pool: Any) -> None:
    assert fill(joined(pool, limit=LIMIT)) == LIMIT


def test_greedy_containers_leave_each_others_reserve(pool: Any) -> None:
    first, second, modest = joined(pool), joined(pool), joined(pool)
    fill(first)
    fill(second)
    assert fill(modest) == RESERVE
    lib.places_give(first, 1)
    assert fill(modest) == 1  # what is free beyond the reserves is for everybody


def test_greedy_containers_leave_room_for_containers_that_join_later(pool: Any) -> None:
    greedy = [joined(pool, limit=1000) for _ in range(2)]
    assert sum(fill(one) for one in greedy) == TOTAL * 3 // 4 + 2 * RESERVE
    late = [joined(pool) for _ in range(2)]  # their reserves and those of the greedy ones are a quarter
    assert [fill(one) for one in late] == [RESERVE, RESERVE]
    assert joined(pool) is None
    lib.places_give(greedy[0], RESERVE)
    assert joined(pool) is not None


def test_reserves_end_with_the_places(pool: Any) -> None:
    members = [joined(pool) for _ in range(TOTAL // RESERVE)]
    assert None not in members
    assert joined(pool) is None
    lib.holding_leave(members[0])
    assert joined(pool) is not None


def test_several_places_are_taken_together_or_not_at_all(pool: Any) -> None:
    holding = joined(pool, limit=5)
    assert lib.places_take(holding, 3)
    assert not lib.places_take(holding, 3)
    assert holding.used == 3
    assert lib.places_take(holding, 2)


def test_a_container_that_leaves_gives_back_what_python_holds(pool: Any) -> None:
    leaving = joined(pool)
    assert lib.places_lend(leaving, 30)
    assert lib.places_take(leaving, 10)
    assert lib.places_pass(leaving)
    lib.holding_leave(leaving)
    assert (leaving.used, pool.committed) == (9, 9)
    lib.places_return(leaving, 31)
    assert not lib.places_lend(leaving, 1)
    lib.places_give(leaving, 9)
    assert pool.committed == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(1, 60)), max_size=60))
def test_a_reserve_can_always_be_taken(steps: list[tuple[int, bool, int]]) -> None:
    pool = ffi.new("struct pool *")
    lib.pool_open(pool, TOTAL)
    members = [joined(pool) for _ in range(4)]
    for which, is_take, count in steps:
        member = members[which]
        if is_take:
            lib.places_take(member, count)
        else:
            lib.places_give(member, min(count, member.used))
        assert sum(one.used for one in members) <= pool.committed <= TOTAL
    for member in members:
        if member.used < RESERVE:
            assert lib.places_take(member, RESERVE - member.used)
    lib.pool_close(pool)
