"""A boundary passes one part of an exception on and ends the other."""

from __future__ import annotations

import pytest
import trio

from pyinterceptor.boundary import parted


async def cancelled() -> BaseException:
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as error:
            kept = error
    return kept


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), GeneratorExit()])
def test_an_error_of_the_users_own_code_ends_at_the_boundary(error: BaseException) -> None:
    assert parted(error) == (None, error)
    group = BaseExceptionGroup("", [error])
    assert parted(group)[0] is None
    ended = parted(group)[1]
    assert isinstance(ended, BaseExceptionGroup)
    assert ended.exceptions == (error,)


def test_cancellation_and_keyboard_interrupt_pass() -> None:
    for error in (KeyboardInterrupt(), trio.run(cancelled)):
        assert parted(error) == (error, None)
        passed, ended = parted(BaseExceptionGroup("", [BaseExceptionGroup("", [error])]))
        assert ended is None
        assert passed is not None


def test_a_group_of_both_is_split() -> None:
    gone, exiting = trio.run(cancelled), SystemExit(3)
    passed, ended = parted(BaseExceptionGroup("", [gone, BaseExceptionGroup("", [exiting])]))
    assert isinstance(passed, BaseExceptionGroup)
    assert passed.exceptions == (gone,)
    assert isinstance(ended, BaseExceptionGroup)
    assert ended.subgroup(SystemExit) is not None
    assert ended.subgroup(trio.Cancelled) is None
