"""The conformance suite of a bucket, on every engine."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import trio

from pyinterceptor import BadArgument, Headers
from pyinterceptor.bindings.r2 import Bucket, Condition, HttpMetadata, ObjectBody, R2Object, Range, limits
from pyinterceptor.bindings.r2.cursors import cursor_of
from pyinterceptor.bindings.r2.engine import Position
from pyinterceptor.web import Body
from tests.bindings.r2_engines import ENGINES, Open, opened_on
from tests.socket.loopback import in_trio

TEXT = "0123456789"
ETAG = hashlib.md5(TEXT.encode()).hexdigest()
PART = 5 * 1024 * 1024
# All of these are legal keys. None may reach another object, or a file of the host.
KEYS = ["a", "a/b", "a/../b", "../a", "..", ".", "/a", "//a", "a\n", " ", "%2e%2e", "a?b#c", "a+b"]
KEYS += ["é", "日本", "é" * 256]
NUL = "a\0b"


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def opened(engine: str, request: pytest.FixtureRequest, tmp_path: Any) -> Open:
    return opened_on(engine, tmp_path, request)


async def pieces(size: int, count: int) -> AsyncIterator[bytes]:
    for number in range(count):
        yield bytes([number % 256]) * size


async def text_of(bucket: Bucket, key: str, **options: Any) -> str | None:
    found = await bucket.get(key, **options)
    if found is None:
        return None
    assert isinstance(found, ObjectBody)
    return await found.text()


async def everything(bucket: Bucket) -> dict[str, str | None]:
    return {one.key: await text_of(bucket, one.key) for one in (await bucket.list()).objects}


# --- one object -----------------------------------------------------------------------------------------------------


@in_trio
async def test_get_returns_the_object_that_was_put(opened: Open) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)
    async with opened() as bucket:
        http = {"content_type": "text/plain", "cache_control": "max-age=5", "content_language": "de"}
        put = await bucket.put("key", TEXT, http_metadata=http, custom_metadata={"who": "me", "what": "ü – x"})
        assert put is not None
        got = await bucket.get("key")
        assert isinstance(got, ObjectBody)
        for found in (put, await bucket.head("key"), got):
            assert found is not None
            assert (found.key, found.size, found.etag, found.http_etag) == ("key", 10, ETAG, f'"{ETAG}"')
            assert found.http_metadata == HttpMetadata("text/plain", "de", cache_control="max-age=5")
            assert found.custom_metadata == {"who": "me", "what": "ü – x"}
            assert found.checksums["md5"].hex() == ETAG
            assert before <= found.uploaded <= datetime.now(UTC) + timedelta(seconds=2)
            assert found.version == put.version
        headers = Headers()
        got.write_http_metadata(headers)
        assert headers == Headers(
            {"content-type": "text/plain", "content-language": "de", "cache-control": "max-age=5"}
        )
        assert not got.body_used
        assert await got.text() == TEXT
        assert got.body_used
        assert await bucket.get("nothing") is None
        assert await bucket.head("nothing") is None


@in_trio
async def test_a_second_put_replaces_bytes_and_metadata(opened: Open) -> None:
    async with opened() as bucket:
        old = await bucket.put("key", TEXT, custom_metadata={"a": "b"}, http_metadata={"content_language": "de"})
        new = await bucket.put("key", "new")
        assert old is not None
        assert new is not None
        assert old.version != new.version
        found = await bucket.head("key")
        assert found is not None
        assert (found.size, dict(found.custom_metadata), found.http_metadata.content_language) == (3, {}, None)
        assert await text_of(bucket, "key") == "new"


@in_trio
async def test_any_kind_of_body_can_be_put(opened: Open) -> None:
    async with opened() as bucket:
        given = [(None, b""), ("ü", b"\xc3\xbc"), (memoryview(b"ab"), b"ab"), (pieces(3, 2), b"\0\0\0\1\1\1")]
        for value, kept in given:
            put = await bucket.put("key", value)
            assert put is not None
            assert put.size == len(kept)
            found = await bucket.get("key")
            assert isinstance(found, ObjectBody)
            assert await found.bytes() == kept


@pytest.mark.parametrize("size", [1024 * 1024 + 1, 20 * 1024 * 1024 + 7])
@in_trio
async def test_a_stream_of_unknown_length_is_stored_whole(opened: Open, size: int) -> None:
    data = hashlib.shake_128(b"seed").digest(size)

    async def stream() -> AsyncIterator[bytes]:
        for at in range(0, size, 70_001):
            yield data[at : at + 70_001]

    async with opened() as bucket:
        put = await bucket.put("key", stream(), sha256=hashlib.sha256(data).hexdigest(), custom_metadata={"a": "b"})
        assert put is not None
        assert put.size == size
        found = await bucket.get("key")
        assert isinstance(found, ObjectBody)
        assert (found.etag, found.custom_metadata) == (put.etag, {"a": "b"})
        assert found.body.length == size
        read = [chunk async for chunk in found.body]
        assert hashlib.sha256(b"".join(read)).digest() == hashlib.sha256(data).digest()
        assert max(map(len, read)) <= 1024 * 1024


@in_trio
async def test_a_stream_that_fails_leaves_the_old_object(opened: Open) -> None:
    async def breaking(count: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield bytes(1024 * 1024)
        raise ConnectionError("the client has left")

    async with opened() as bucket:
        await bucket.put("key", TEXT)
        for count in (0, 1, 20):
            with pytest.raises(ConnectionError, match="has left"):
                await bucket.put("key", breaking(count))
        assert await everything(bucket) == {"key": TEXT}


@in_trio
async def test_a_body_that_is_being_read_survives_the_replacement_of_its_object(opened: Open) -> None:
    async with opened() as bucket:
        await bucket.put("key", pieces(1024 * 1024, 3))
        found = await bucket.get("key")
        assert isinstance(found, ObjectBody)
        body = aiter(found.body)
        first = await anext(body)
        await bucket.put("key", "new")
        rest = [chunk async for chunk in body]
        assert len(first) + sum(map(len, rest)) == 3 * 1024 * 1024
        assert await text_of(bucket, "key") == "new"


@in_trio
async def test_delete_removes_one_or_many_and_ignores_missing_keys(opened: Open) -> None:
    async with opened() as bucket:
        for key in ("one", "two", "three"):
            await bucket.put(key, key)
        await bucket.delete("one")
        await bucket.delete(["two", "none"])
        await bucket.delete([])
        assert await everything(bucket) == {"three": "three"}
        assert await bucket.get("one") is None


@in_trio
async def test_no_key_reaches_another_object(opened: Open) -> None:
    async with opened() as bucket:
        for key in KEYS:
            await bucket.put(key, f"that of {key}")
        assert await everything(bucket) == {key: f"that of {key}" for key in KEYS}
        for key in KEYS:
            found = await bucket.head(key)
            assert found is not None
            assert found.key == key
        await bucket.delete("a/../b")
        assert await text_of(bucket, "a/b") == "that of a/b"
        await bucket.delete(KEYS)
        assert await everything(bucket) == {}


@in_trio
async def test_a_key_with_a_nul_is_a_separate_object_or_refused(opened: Open, engine: str) -> None:
    async with opened() as bucket:
        await bucket.put("a", "plain")
        kept = {"a": "plain"}
        if engine == "s3":  # Ceph has none
            with pytest.raises(BadArgument):
                await bucket.put(NUL, "with a NUL")
        else:
            await bucket.put(NUL, "with a NUL")
            kept[NUL] = "with a NUL"
        assert await everything(bucket) == kept


# --- checksums ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["md5", "sha1", "sha256", "sha384", "sha512"])
@in_trio
async def test_a_checksum_is_verified_and_returned(opened: Open, name: str) -> None:
    right = hashlib.new(name, TEXT.encode()).digest()
    wrong = hashlib.new(name, b"other").hexdigest()
    async with opened() as bucket:
        for given in (right, right.hex(), right.hex().upper()):
            put = await bucket.put("key", TEXT, **{name: given})  # type: ignore[arg-type]
            found = await bucket.head("key")
            for one in (put, found):
                assert one is not None
                assert one.checksums[name] == getattr(one.checksums, name) == right
                digests = {"md5": hashlib.md5(TEXT.encode()).hexdigest(), name: right.hex()}
                assert one.checksums.to_json() == digests
                assert name == "sha1" or one.checksums.sha1 is None
        for value in ("new", pieces(1024 * 1024, 9)):
            with pytest.raises(BadArgument, match=r"\(10037\)") as caught:
                await bucket.put("key", value, **{name: wrong})  # type: ignore[arg-type]
            assert caught.value.status == 400
        assert await everything(bucket) == {"key": TEXT}


@in_trio
async def test_a_storage_class_is_kept(opened: Open) -> None:
    async with opened() as bucket:
        await bucket.put("a", TEXT)
        await bucket.put("b", TEXT, storage_class="InfrequentAccess")
        upload = await bucket.create_multipart_upload("c", storage_class="InfrequentAccess")
        await upload.complete([await upload.upload_part(1, TEXT)])
        for key, kept in (("a", "Standard"), ("b", "InfrequentAccess"), ("c", "InfrequentAccess")):
            found = await bucket.head(key)
            assert found is not None
            assert found.storage_class == kept
        listed = await bucket.list(include=["custom_metadata"])
        assert [one.storage_class for one in listed.objects] == ["Standard", "InfrequentAccess", "InfrequentAccess"]


# --- ranges and conditions ------------------------------------------------------------------------------------------

RANGES: list[tuple[Any, str, Range]] = [
    ({"offset": 3}, "3456789", Range(3, 7)),
    ({"offset": 3, "length": 2}, "34", Range(3, 2)),
    (Range(length=4), "0123", Range(0, 4)),
    ({"offset": 8, "length": 100}, "89", Range(8, 2)),
    ({"suffix": 3}, "789", Range(7, 3)),
    ({"suffix": 100}, TEXT, Range(0, 10)),
    ({"offset": 0}, TEXT, Range(0, 10)),
    (Headers({"range": "bytes=2-4"}), "234", Range(2, 3)),
    (Headers({"range": "bytes=2-"}), "23456789", Range(2, 8)),
    (Headers({"range": "bytes=-2"}), "89", Range(8, 2)),
    (Headers({"range": "bytes=9-99"}), "9", Range(9, 1)),
    (Headers({"range": "bytes=1-2,4-5"}), TEXT, Range(0, 10)),
    (Headers({"range": "lines=1-2"}), TEXT, Range(0, 10)),
    (Headers({"range": "bytes=5-2"}), TEXT, Range(0, 10)),
    (Headers(), TEXT, Range(0, 10)),
]


@in_trio
async def test_get_returns_the_requested_range(opened: Open) -> None:
    async with opened() as bucket:
        await bucket.put("key", TEXT)
        for asked, text, told in RANGES:
            found = await bucket.get("key", range=asked)
            assert isinstance(found, ObjectBody), asked
            assert (found.range, found.size, found.body.length) == (told, 10, len(text)), asked
            assert await found.text() == text, asked


@pytest.mark.parametrize(
    "past", [{"offset": 10}, {"offset": 11, "length": 1}, {"suffix": 0}, {"length": 0}, {"offset": -1}]
)
@in_trio
async def test_a_range_past_the_end_is_416(opened: Open, past: Any) -> None:
    async with opened() as bucket:
        await bucket.put("key", TEXT)
        with pytest.raises(BadArgument, match=r"\(10039\)") as caught:
            await bucket.get("key", range=past)
        assert caught.value.status == 416
        with pytest.raises(BadArgument, match=r"\(10039\)"):
            await bucket.get("key", range=Headers({"range": "bytes=10-"}))
        assert await bucket.get("nothing", range=past if past != {"offset": -1} else None) is None


NO_DATES = ["", "no date", "Mon, 01 Jan 99999999999999999999 00:00:00 GMT", "1 Jan 2020 00:00:00 +99999999999999999999"]
NO_DATES.append("Fri, 31 Dec 9999 23:59:59 -0100")  # valid, but in UTC its year is beyond a datetime's range


@pytest.mark.parametrize("text", NO_DATES)
@in_trio
async def test_an_invalid_date_is_ignored(opened: Open, text: str) -> None:
    async with opened() as bucket:
        fields = {"expires": text, "if-modified-since": text, "if-unmodified-since": text, "content-type": "text/x"}
        put = await bucket.put("key", TEXT, http_metadata=Headers(fields), only_if=Headers(fields))
        assert put is not None
        found = await bucket.get("key", only_if=Headers(fields))
        assert isinstance(found, ObjectBody)
        assert found.http_metadata == HttpMetadata("text/x")
        assert await found.text() == TEXT


@in_trio
async def test_a_date_without_a_timezone_is_in_utc(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        async with opened() as bucket:
            await bucket.put("key", TEXT, http_metadata=Headers({"expires": "Wed, 01 Jan 2020 00:00:00 -0000"}))
            found = await bucket.head("key")
            assert found is not None
            assert found.http_metadata.cache_expiry == datetime(2020, 1, 1, tzinfo=UTC)
    finally:
        monkeypatch.undo()
        time.tzset()


LATER, EARLIER = datetime.now(UTC) + timedelta(days=1), datetime.now(UTC) - timedelta(days=1)
CONDITIONS: list[tuple[Any, bool]] = [
    ({"etag_matches": ETAG}, True),
    ({"etag_matches": f'"{ETAG}"'}, True),
    ({"etag_matches": "*"}, True),
    ({"etag_matches": "other"}, False),
    ({"etag_does_not_match": "other"}, True),
    ({"etag_does_not_match": ETAG}, False),
    ({"etag_does_not_match": "*"}, False),
    ({"uploaded_before": LATER}, True),
    ({"uploaded_before": EARLIER}, False),
    (Condition(uploaded_after=EARLIER), True),
    (Condition(uploaded_after=LATER), False),
    ({"etag_matches": ETAG, "uploaded_before": EARLIER}, True),
    ({"etag_does_not_match": "other", "uploaded_after": LATER}, True),
    (Headers({"if-match": f'"other", "{ETAG}"'}), True),
    (Headers({"if-none-match": f'W/"{ETAG}"'}), False),
    (Headers({"if-modified-since": "Fri, 01 Jan 2100 00:00:00 GMT"}), False),
    (Headers({"if-modified-since": "no date"}), True),
    (Headers({"if-unmodified-since": "Fri, 01 Jan 2100 00:00:00 GMT"}), True),
    (Headers({"if-unmodified-since": "Sat, 01 Jan 2000 00:00:00 GMT"}), False),
    (Headers(), True),
    (None, True),
]


@in_trio
async def test_a_get_whose_condition_is_not_met_has_no_body(opened: Open) -> None:
    async with opened() as bucket:
        await bucket.put("key", TEXT)
        for condition, is_met in CONDITIONS:
            found = await bucket.get("key", only_if=condition)
            assert isinstance(found, R2Object), condition
            assert isinstance(found, ObjectBody) == is_met, condition
            assert found.etag == ETAG
            if isinstance(found, ObjectBody):
                assert await found.text() == TEXT
            assert await bucket.get("nothing", only_if=condition) is None


@in_trio
async def test_a_put_whose_condition_is_not_met_changes_nothing(opened: Open) -> None:
    async with opened() as bucket:
        for condition, is_met in CONDITIONS:
            await bucket.put("key", TEXT)
            put = await bucket.put("key", "new", only_if=condition)
            assert (put is not None) == is_met, condition
            assert await text_of(bucket, "key") == ("new" if is_met else TEXT)
        await bucket.delete("key")
        assert await bucket.put("key", "x", only_if={"etag_matches": "*"}) is None
        assert await bucket.put("key", "x", only_if={"uploaded_after": EARLIER}) is None
        assert await bucket.head("key") is None
        assert await bucket.put("key", "first", only_if={"etag_does_not_match": "*"}) is not None
        assert await bucket.put("key", "second", only_if={"etag_does_not_match": "*"}) is None
        assert await text_of(bucket, "key") == "first"


@in_trio
async def test_of_many_concurrent_creations_one_succeeds(opened: Open) -> None:
    async with opened() as bucket:
        done: list[str] = []

        async def create(number: int) -> None:
            if await bucket.put("key", str(number), only_if={"etag_does_not_match": "*"}) is not None:
                done.append(str(number))

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(create, number)
        assert len(done) == 1
        assert await text_of(bucket, "key") == done[0]


# --- listing --------------------------------------------------------------------------------------------------------

TREE = ["a", "a-", "a/1", "a/2", "a/b/1", "a/b/2", "b", "b/1", "c/", "c/d", "é/1", "é/2", "z"]


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
@in_trio
async def test_a_page_begins_where_the_last_one_ended(opened: Open, limit: int) -> None:
    queries: list[tuple[dict[str, str], list[str], list[str]]] = [
        ({}, TREE, []),
        ({"prefix": "a/"}, ["a/1", "a/2", "a/b/1", "a/b/2"], []),
        ({"delimiter": "/"}, ["a", "a-", "b", "z"], ["a/", "b/", "c/", "é/"]),
        ({"prefix": "a/", "delimiter": "/"}, ["a/1", "a/2"], ["a/b/"]),
        ({"prefix": "a", "delimiter": "/"}, ["a", "a-"], ["a/"]),
        ({"start_after": "b"}, ["b/1", "c/", "c/d", "é/1", "é/2", "z"], []),
        ({"prefix": "none"}, [], []),
        ({"delimiter": "none"}, TREE, []),
    ]
    async with opened() as bucket:
        for key in TREE:
            await bucket.put(key, key)
        for query, keys, prefixes in queries:
            found: list[str] = []
            found_prefixes: list[str] = []
            cursor, goes_on = None, True
            while goes_on:
                page = await bucket.list(limit=limit, cursor=cursor, **query)
                assert len(page.objects) + len(page.delimited_prefixes) <= limit
                found += [one.key for one in page.objects]
                found_prefixes += page.delimited_prefixes
                cursor, goes_on = page.cursor, page.truncated
                assert (cursor is not None) == goes_on
            assert found == sorted(keys, key=str.encode), query
            assert found_prefixes == sorted(prefixes, key=str.encode), query


@in_trio
async def test_a_listing_has_only_the_included_metadata(opened: Open) -> None:
    async with opened() as bucket:
        await bucket.put("key", TEXT, http_metadata={"content_language": "de"}, custom_metadata={"a": "b"})
        for include, language, custom in (
            ([], None, {}),
            (["http_metadata"], "de", {}),
            (["custom_metadata"], None, {"a": "b"}),
            (["http_metadata", "custom_metadata"], "de", {"a": "b"}),
        ):
            (found,) = (await bucket.list(include=include)).objects
            assert (found.http_metadata.content_language, found.custom_metadata) == (language, custom)
            assert (found.key, found.size, found.etag) == ("key", 10, ETAG)


# --- multipart uploads ----------------------------------------------------------------------------------------------


@in_trio
async def test_an_upload_in_parts_becomes_one_object_even_after_a_restart(opened: Open) -> None:
    first, second, last = b"1" * PART, b"2" * PART, b"3"
    async with opened() as bucket:
        await bucket.put("key", "old")
        upload = await bucket.create_multipart_upload(
            "key", http_metadata={"content_language": "de"}, custom_metadata={"a": "b"}
        )
        parts = {3: await upload.upload_part(3, last), 1: await upload.upload_part(1, b"x" * PART)}
        assert await text_of(bucket, "key") == "old"
    async with opened() as bucket:
        resumed = bucket.resume_multipart_upload("key", upload.upload_id)
        parts[2] = await resumed.upload_part(2, second)
        parts[1] = await resumed.upload_part(1, first)  # a second time: the last one counts
        put = await resumed.complete([parts[3], parts[1], parts[2]])
        assert put.size == 2 * PART + 1
        assert put.etag.endswith("-3")
        found = await bucket.get("key")
        assert isinstance(found, ObjectBody)
        assert (found.etag, found.http_metadata.content_language) == (put.etag, "de")
        assert found.custom_metadata == {"a": "b"}
        assert await found.bytes() == first + second + last
        tail = await bucket.get("key", range={"suffix": 3})
        assert isinstance(tail, ObjectBody)
        assert await tail.bytes() == b"223"
        with pytest.raises(BadArgument, match=r"\(10024\)") as caught:
            await resumed.upload_part(4, "late")
        assert caught.value.status == 404


@in_trio
async def test_an_aborted_upload_leaves_the_old_object(opened: Open) -> None:
    async with opened() as bucket:
        await bucket.put("key", "old")
        upload = await bucket.create_multipart_upload("key")
        part = await upload.upload_part(1, b"1" * PART)
        for _ in range(2):
            await upload.abort()
        await bucket.resume_multipart_upload("key", upload.upload_id).abort()
        for call in (lambda: upload.upload_part(1, "x"), lambda: upload.complete([part])):
            with pytest.raises(BadArgument, match=r"\(10024\)"):
                await call()
        assert await everything(bucket) == {"key": "old"}


@in_trio
async def test_invalid_parts_are_refused_and_the_upload_goes_on(opened: Open) -> None:
    async with opened() as bucket:
        upload = await bucket.create_multipart_upload("key")
        small = await upload.upload_part(1, b"small")
        second = await upload.upload_part(2, b"2" * PART)
        third = await upload.upload_part(3, b"3" * (PART + 1))
        missing = {"part_number": 4, "etag": "0" * 32}
        wrong = {"part_number": 2, "etag": "0" * 32}
        for parts, code in (
            ([small, second], 10011),
            ([second, third, {"part_number": 1, "etag": small.etag}], 10011),
            ([second, missing], 10025),
            ([wrong], 10025),
            ([second, second], 10025),
            ([], 10025),
        ):
            with pytest.raises(BadArgument, match=rf"\({code}\)"):
                await upload.complete(parts)
        assert await bucket.head("key") is None
        first, third = await upload.upload_part(1, b"1" * PART), await upload.upload_part(3, b"3")
        put = await upload.complete([first, second, third])
        assert put.size == 2 * PART + 1


@in_trio
async def test_an_unnamed_part_is_omitted_or_refused(opened: Open) -> None:
    """Ceph refuses the completion; R2 and AWS omit the part."""
    async with opened() as bucket:
        upload = await bucket.create_multipart_upload("key")
        await upload.upload_part(1, b"1")
        second = await upload.upload_part(2, b"2")
        try:
            await upload.complete([second])
        except BadArgument:
            kept = {}
        else:
            kept = {"key": "2"}
        assert await everything(bucket) == kept


# --- invalid arguments ----------------------------------------------------------------------------------------------

LONG = "x" * 1025
BEYOND = datetime.max.replace(tzinfo=timezone(-timedelta(hours=1)))  # in UTC, its year is 10 000
WRONG: list[tuple[str, dict[str, Any], int, int]] = [
    ("get", {"key": ""}, 10020, 400),
    ("head", {"key": LONG}, 10020, 400),
    ("put", {"key": "é" * 513, "value": "x"}, 10020, 400),
    ("put", {"key": "\ud800", "value": "x"}, 10020, 400),
    ("delete", {"keys": ["fine", LONG]}, 10020, 400),
    ("delete", {"keys": ["x"] * 1001}, 10029, 400),
    ("put", {"key": "key", "value": "x", "custom_metadata": {"a": "m" * 8192}}, 10012, 400),
    ("put", {"key": "key", "value": "x", "http_metadata": {"content_typ": "x"}}, 10029, 400),
    ("put", {"key": "key", "value": "x", "http_metadata": {"content_type": "a\r\nb: c"}}, 10029, 400),
    ("put", {"key": "key", "value": "x", "http_metadata": {"cache_expiry": BEYOND}}, 10029, 400),
    ("put", {"key": "key", "value": "x", "md5": "00", "sha1": "00"}, 10029, 400),
    ("put", {"key": "key", "value": "x", "md5": "00"}, 10029, 400),
    ("put", {"key": "key", "value": "x", "sha256": "not hex"}, 10029, 400),
    ("put", {"key": "key", "value": "x", "only_if": {"etag": "x"}}, 10029, 400),
    ("put", {"key": "key", "value": "x", "only_if": {"uploaded_before": datetime(2020, 1, 1)}}, 10029, 400),
    ("get", {"key": "key", "range": {"from": 1}}, 10029, 400),
    ("get", {"key": "key", "range": {}}, 10029, 400),
    ("get", {"key": "key", "range": Range()}, 10029, 400),
    ("get", {"key": "key", "range": {"offset": None}}, 10029, 400),
    ("put", {"key": "key", "value": "x", "storage_class": "Glacier"}, 10029, 400),
    ("create_multipart_upload", {"key": "key", "storage_class": ""}, 10029, 400),
    ("get", {"key": "key", "range": {"offset": 1, "suffix": 1}}, 10029, 400),
    ("list", {"limit": 0}, 10022, 400),
    ("list", {"limit": 1001}, 10022, 400),
    ("list", {"cursor": "not one"}, 10029, 400),
    ("list", {"cursor": ""}, 10029, 400),
    ("list", {"cursor": cursor_of(Position("key", "a"), ""), "prefix": "b"}, 10029, 400),  # the cursor of "a"
    ("list", {"include": ["everything"]}, 10029, 400),
    ("create_multipart_upload", {"key": LONG}, 10020, 400),
]


@pytest.mark.parametrize(("method", "arguments", "code", "status"), WRONG)
@in_trio
async def test_an_invalid_argument_is_refused_with_its_code_and_changes_nothing(
    opened: Open, method: str, arguments: dict[str, Any], code: int, status: int
) -> None:
    async with opened() as bucket:
        await bucket.put("key", TEXT)
        with pytest.raises(BadArgument, match=rf"^{method}: .*\({code}\)$") as caught:
            await getattr(bucket, method)(**arguments)
        assert caught.value.status == status
        assert await everything(bucket) == {"key": TEXT}


@in_trio
async def test_an_upload_that_is_too_large_is_413(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened() as bucket:
        await bucket.put("key", TEXT)
        with pytest.raises(BadArgument, match=r"^put: .*\(100100\)$") as caught:
            await bucket.put("key", Body(pieces(1, 1), 5 * 1024**3 + 1))
        assert caught.value.status == 413
        monkeypatch.setattr(limits, "UPLOAD", 9 * 1024 * 1024)
        await bucket.put("most", pieces(1024 * 1024, 9))
        with pytest.raises(BadArgument, match=r"^put: .*\(100100\)$"):
            await bucket.put("key", pieces(1024 * 1024, 10))
        upload = await bucket.create_multipart_upload("key")
        with pytest.raises(BadArgument, match=r"^upload_part: .*\(100100\)$"):
            await upload.upload_part(1, pieces(1024 * 1024, 10))
        await upload.abort()
        assert await text_of(bucket, "key") == TEXT


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("get", {"key": b"key"}),
        ("put", {"key": "key", "value": 5}),
        ("put", {"key": "key", "value": "x", "md5": 5}),
        ("put", {"key": "key", "value": "x", "custom_metadata": {"a": 1}}),
        ("put", {"key": "key", "value": "x", "http_metadata": {"content_type": 5}}),
        ("put", {"key": "key", "value": "x", "http_metadata": {"cache_expiry": "tomorrow"}}),
        ("put", {"key": "key", "value": "x", "only_if": "etag"}),
        ("get", {"key": "key", "range": "bytes=1-2"}),
        ("get", {"key": "key", "range": {"offset": 1.5}}),
        ("list", {"limit": "10"}),
        ("list", {"prefix": b"a"}),
    ],
)
@in_trio
async def test_an_argument_of_the_wrong_type_raises_type_error(
    opened: Open, method: str, arguments: dict[str, Any]
) -> None:
    async with opened() as bucket:
        await bucket.put("key", TEXT)
        with pytest.raises(TypeError):
            await getattr(bucket, method)(**arguments)
        assert await everything(bucket) == {"key": TEXT}
