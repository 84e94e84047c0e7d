"""Ranges, conditions and listings, compared with independent models of them."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from pyinterceptor import BadArgument, Headers, R2Bucket
from pyinterceptor.bindings.r2 import Condition, Range
from pyinterceptor.bindings.r2.conditions import condition_of
from pyinterceptor.bindings.r2.cursors import cursor_of, position_of
from pyinterceptor.bindings.r2.ranges import range_of

MEMORY = "/dev/shm"  # a file system in memory, so that no test waits for a disk
COUNT = st.none() | st.integers(0, 40)
KEY = st.text("ab/é\0\n\U0010ffff", min_size=1, max_size=5)
MOMENT = st.integers(0, 4000).map(lambda number: 1_000_000_000 + number / 1000)
ETAG = st.sampled_from("abc")


# --- ranges ---------------------------------------------------------------------------------------------------------


def asked_of(data: bytes, given: Any) -> bytes:
    """Returns the bytes in the range; none if it is unsatisfiable."""
    asked = range_of(given)
    if asked is None:
        return data
    try:
        offset, length = asked.within(len(data))
    except BadArgument as error:
        if error.status != 416:
            raise
        return b""
    assert length > 0
    assert 0 <= offset <= offset + length <= len(data)
    return data[offset : offset + length]


@given(size=st.integers(0, 30), offset=COUNT, length=COUNT)
def test_a_range_is_a_slice(size: int, offset: int | None, length: int | None) -> None:
    data = bytes(range(size))
    if (offset, length) == (None, None):
        with pytest.raises(BadArgument, match="a range must have offset, length or suffix"):
            asked_of(data, Range())
    else:
        assert asked_of(data, Range(offset, length)) == data[offset or 0 :][:length]


@given(size=st.integers(0, 30), suffix=st.integers(0, 40))
def test_a_suffix_is_the_end(size: int, suffix: int) -> None:
    data = bytes(range(size))
    assert asked_of(data, {"suffix": suffix}) == data[max(0, size - suffix) :]


@given(size=st.integers(0, 30), first=COUNT, last=COUNT)
def test_a_range_field_is_parsed_as_in_rfc_9110(size: int, first: int | None, last: int | None) -> None:
    data = bytes(range(size))
    text = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    if first is None:
        expected = data if last is None else data[max(0, size - last) :]
    elif last is None or last >= first:
        expected = data[first : None if last is None else last + 1]
    else:
        expected = data
    assert asked_of(data, Headers({"range": text})) == expected


@given(text=st.text("bytes=0123456789-, \t٣", max_size=20))
def test_any_range_field_yields_a_range_or_the_whole_object(text: str) -> None:
    asked = range_of(_headers(range=text))
    assert asked is None or asked.offset is not None or asked.suffix is not None


# --- conditions -----------------------------------------------------------------------------------------------------


def is_met(etag: str, uploaded: float, condition: Condition, matches: Any, differs: Any) -> bool:
    """Evaluates the condition in the order of RFC 9110 section 13.2.2."""
    if condition.etag_matches is not None:
        if not matches(etag):
            return False
    elif condition.uploaded_before is not None and not uploaded < condition.uploaded_before.timestamp():
        return False
    if condition.etag_does_not_match is not None:
        return bool(differs(etag))
    return condition.uploaded_after is None or uploaded > condition.uploaded_after.timestamp()


def dates() -> st.SearchStrategy[datetime | None]:
    return st.none() | MOMENT.map(lambda moment: datetime.fromtimestamp(moment, UTC))


@given(
    etag=ETAG,
    uploaded=MOMENT,
    matches=st.none() | ETAG,
    differs=st.none() | ETAG,
    before=dates(),
    after=dates(),
)
def test_a_condition_is_evaluated_as_in_rfc_9110(
    etag: str,
    uploaded: float,
    matches: str | None,
    differs: str | None,
    before: datetime | None,
    after: datetime | None,
) -> None:
    condition = Condition(matches, differs, before, after)
    expected = is_met(etag, uploaded, condition, lambda tag: tag == matches, lambda tag: tag != differs)
    assert condition.is_met(etag, uploaded) == expected
    assert Condition().is_met(etag, uploaded)


@given(etag=ETAG, strong=st.sets(ETAG), weak=st.sets(ETAG), blank=st.sampled_from(["", " ", " ,, "]))
def test_weak_entity_tags_match_only_in_if_none_match(
    etag: str, strong: set[str], weak: set[str], blank: str
) -> None:
    tags = [f'"{tag}"' for tag in strong] + [f'W/"{tag}"' for tag in weak]
    field = f",{blank}".join(tags)
    matching, other = condition_of("get", _headers(if_match=field)), condition_of("get", _headers(if_none_match=field))
    assert matching is not None
    assert other is not None
    assert matching.is_met(etag, 0.0) == (etag in strong)
    assert other.is_met(etag, 0.0) == (etag not in strong | weak)
    assert not matching.is_met(None, 0.0)
    assert other.is_met(None, 0.0)


@given(uploaded=MOMENT, date=st.integers(1_000_000_000, 1_000_000_004))
def test_dates_of_fields_are_whole_seconds(uploaded: float, date: int) -> None:
    text = format_datetime(datetime.fromtimestamp(date, UTC), usegmt=True)
    since, until = condition_of("get", _headers(if_modified_since=text)), condition_of(
        "get", _headers(if_unmodified_since=text)
    )
    assert since is not None
    assert until is not None
    assert since.is_met("a", uploaded) == (int(uploaded) > date)
    assert until.is_met("a", uploaded) == (int(uploaded) <= date)


def _headers(**fields: str) -> Headers:
    return Headers.parsed([(name.replace("_", "-"), value) for name, value in fields.items()])


# --- listings -------------------------------------------------------------------------------------------------------


def listed(keys: set[str], prefix: str, delimiter: str, start_after: str) -> list[str]:
    """Returns keys and delimited prefixes, each once, in order."""
    entries = set()
    for key in keys:
        if key.startswith(prefix) and key > start_after:
            head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            entries.add(prefix + head + found if found else key)
    return sorted(entries, key=str.encode)


def in_bucket(test: Callable[[Any], Any]) -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory(dir=MEMORY) as place:
            async with R2Bucket().open("BUCKET", Path(place)) as bucket:
                await test(bucket)

    trio.run(main)


@settings(max_examples=60, deadline=None)
@given(
    keys=st.sets(KEY, max_size=12),
    prefix=st.text("ab/é", max_size=2),
    delimiter=st.sampled_from(["", "/", "a", "/a", "é"]),
    start_after=st.just("") | KEY,
    limit=st.integers(1, 4),
    removed=st.sets(st.integers(0, 8)),
)
def test_pages_add_up_to_the_listing_even_if_listed_keys_are_deleted(
    keys: set[str], prefix: str, delimiter: str, start_after: str, limit: int, removed: set[int]
) -> None:
    expected = listed(keys, prefix, delimiter, start_after)

    async def read_all(bucket: Any) -> None:
        async with trio.open_nursery() as nursery:
            for key in keys:
                nursery.start_soon(bucket.put, key, "")
        found: list[str] = []
        cursor = None
        for number in range(len(expected) + 1):
            page = await bucket.list(
                prefix=prefix, delimiter=delimiter, start_after=start_after, limit=limit, cursor=cursor
            )
            entries = [one.key for one in page.objects] + list(page.delimited_prefixes)
            found += sorted(entries, key=str.encode)
            cursor = page.cursor
            assert page.truncated == (cursor is not None) == (len(found) < len(expected))
            assert len(entries) == (limit if page.truncated else len(expected) - limit * number)
            if number in removed:
                await bucket.delete([one.key for one in page.objects])
            if cursor is None:
                break
        assert found == expected

    in_bucket(read_all)


@given(cursor=st.text(max_size=20) | st.binary(max_size=20).map(lambda data: base64.b64encode(data).decode()))
def test_any_cursor_is_refused_or_yields_a_position(cursor: str) -> None:
    try:
        again = cursor_of(position_of(cursor, ""), "")
    except BadArgument as error:
        again = f"status {error.status}"
    assert again in (cursor, "status 400")
