"""Values that pass between objects are copied, or refused by name."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyinterceptor import PolicyError, Request, Response, Secret
from pyinterceptor.app.copies import copy_of, text_of, value_of

LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
    | st.datetimes() | st.dates() | st.times() | st.sets(st.integers()) | st.frozensets(st.text())
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.just("$"), inner)
)


@given(VALUES)
def test_a_value_is_the_same_after_it_was_written_or_copied(value: Any) -> None:
    assert value_of(text_of(value, "it")) == value
    assert copy_of(value, "it") == value


def test_a_copy_shares_nothing_that_can_change() -> None:
    value = {"list": [1], "set": {2}, "bytes": bytearray(b"3")}
    for made in (copy_of(value, "it"), value_of(text_of(value, "it"))):
        made["list"].append(2)
        made["set"].clear()
        made["bytes"][0] = 0
        assert value == {"list": [1], "set": {2}, "bytes": bytearray(b"3")}


def test_a_datetime_keeps_its_zone() -> None:
    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, 6, datetime.timezone(datetime.timedelta(hours=2)))
    assert value_of(text_of([moment], "it")) == [moment]


class Own(dict[str, str]):
    """A class of the user's."""


HOLDS_ITSELF: list[Any] = []
HOLDS_ITSELF.append(HOLDS_ITSELF)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a": [object()]}, r"^params\['a'\] can't be copied: it holds a object"),
        (Own(), "it holds a Own"),
        ({1: 2}, "its key 1 is no str"),
        (lambda: None, "it holds a function"),
        ([{"token": Secret("hush")}], r"^params\['token'\] holds a Secret"),
        (HOLDS_ITSELF, "more than 100 levels deep, or holds itself"),
    ],
)
def test_a_value_that_cannot_be_copied_is_refused_by_its_place(value: Any, said: str) -> None:
    for function in (copy_of, text_of):
        with pytest.raises(PolicyError, match=said) as caught:
            function(value, "params")
        assert "hush" not in str(caught.value)


def test_requests_responses_and_streams_are_passed_on_but_not_written() -> None:
    async def stream() -> Any:
        yield b""

    values = [Request("http://my.kv/"), Response("text"), stream()]
    assert copy_of(values, "it") == values
    for value in values:
        with pytest.raises(PolicyError, match="can't be copied"):
            text_of(value, "it")
