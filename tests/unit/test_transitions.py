"""The legal transitions of a flow."""

from __future__ import annotations

from pyinterceptor._relay import lib

STATES = range(lib.FLOW_STATES)
FINAL = {lib.FLOW_SERVED, lib.FLOW_ENDED}


def after(state: int) -> set[int]:
    return {later for later in STATES if lib.transition_is_legal(state, later)}


def test_a_final_state_is_left_by_no_transition() -> None:
    assert [after(state) for state in FINAL] == [set(), set()]


def test_every_other_state_may_end_and_none_follows_itself() -> None:
    for state in set(STATES) - FINAL:
        assert lib.FLOW_ENDED in after(state)
        assert state not in after(state)


def test_every_state_is_reached_from_the_first_one() -> None:
    reached, new = set(), {lib.FLOW_OPENING}
    while new:
        reached |= new
        new = {later for state in new for later in after(state)} - reached
    assert reached == set(STATES)


def test_a_flow_whose_bytes_pass_is_neither_served_nor_judged_as_a_new_one() -> None:
    passing = {lib.FLOW_UNFRAMED, lib.FLOW_SPLICING}
    for state in passing:
        assert after(state) <= {*passing, lib.FLOW_ENDED}
    assert lib.FLOW_SERVED in after(lib.FLOW_FOLLOWING)  # between two of its messages


def test_only_a_flow_without_a_server_returns_to_its_opening() -> None:
    for state in set(STATES) - {lib.FLOW_OPENING}:
        returns = lib.FLOW_OPENING in after(state)
        assert returns is not (lib.is_connected(state) or state in FINAL)


def test_a_server_is_connected_only_after_it_was_dialled_or_has_greeted() -> None:
    for state in STATES:
        for later in after(state):
            if lib.is_connected(later):
                assert lib.is_dialling(state) or lib.is_connected(state)
            if lib.is_dialling(later):
                assert lib.is_resolving(state)
