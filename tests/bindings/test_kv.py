"""The conformance suite of a KV, on every engine."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from pyinterceptor import BadArgument
from pyinterceptor.bindings.kv.namespace import Namespace
from pyinterceptor.web import Body
from tests.bindings.kv_engines import ENGINES, Open, opened_on
from tests.socket.loopback import in_trio

NAMES = ["a", "b", "z", "Z", "a\0", "a\n", "a/../b", "../a", "..a", " ", "%2e%2e", "a:b{c}"]
NAMES += ["é", "日本", "\U0001f600", "é" * 256, "k" * 512]


@pytest.fixture(params=ENGINES)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    return opened_on(request.param, tmp_path, request)


async def parts(*given: bytes | str) -> AsyncIterator[bytes | str]:
    for part in given:
        yield part


@in_trio
async def test_a_value_is_returned_as_the_requested_type(opened: Open) -> None:
    async with opened() as kv:
        await kv.put("key", '{"one": "ü"}')
        assert await kv.get("key") == '{"one": "ü"}'
        assert await kv.get("key", "json") == {"one": "ü"}
        assert await kv.get("key", type="bytes") == '{"one": "ü"}'.encode()
        stream = await kv.get("key", type="stream")
        assert isinstance(stream, Body)
        assert b"".join([part async for part in stream]) == '{"one": "ü"}'.encode()
        assert await kv.get("nothing") is None
        assert await kv.get("nothing", "json") is None


@in_trio
async def test_any_kind_of_body_can_be_a_value(opened: Open) -> None:
    given: list[Any] = ["text", b"\0\xff", bytearray(b"ab"), memoryview(b"cd")]
    given += [parts(b"ef", "ü"), Body("body"), "", b""]
    kept = [b"text", b"\0\xff", b"ab", b"cd", b"ef\xc3\xbc", b"body", b"", b""]
    async with opened() as kv:
        for value, expected in zip(given, kept, strict=True):
            await kv.put("key", value)
            assert await kv.get("key", "bytes") == expected


@in_trio
async def test_several_keys_are_read_at_once(opened: Open) -> None:
    async with opened() as kv:
        await kv.put("one", "1", metadata="first")
        await kv.put("two", "2")
        assert await kv.get(["two", "none", "one"], "json") == {"two": 2, "none": None, "one": 1}
        found = await kv.get_with_metadata(("one", "none"))
        assert (found["one"].value, found["one"].metadata) == ("1", "first")
        assert (found["none"].value, found["none"].metadata) == (None, None)
        assert await kv.get([]) == {}
        with pytest.raises(BadArgument, match="maximum of 100 keys"):
            await kv.get([str(number) for number in range(101)])


@in_trio
async def test_a_put_replaces_value_and_metadata(opened: Open) -> None:
    async with opened() as kv:
        await kv.put("key", "old", metadata={"a": [1, None, "ü"]}, expiration_ttl=100)
        found = await kv.get_with_metadata("key")
        assert (found.value, found.metadata) == ("old", {"a": [1, None, "ü"]})
        await kv.put("key", "new")
        found = await kv.get_with_metadata("key")
        assert (found.value, found.metadata) == ("new", None)
        listing = await kv.list()
        assert [(key.name, key.expiration, key.metadata) for key in listing.keys] == [("key", None, None)]


@in_trio
async def test_delete_removes_a_key_and_ignores_a_missing_one(opened: Open) -> None:
    async with opened() as kv:
        await kv.put("key", "value")
        await kv.delete("key")
        await kv.delete("key")
        assert await kv.get("key") is None
        assert (await kv.list()).keys == []


@in_trio
async def test_any_keys_are_listed_in_the_order_of_their_bytes(opened: Open) -> None:
    async with opened() as kv:
        for name in NAMES:
            await kv.put(name, f"value of {name}", metadata=name[:9])
        listing = await kv.list()
        assert [key.name for key in listing.keys] == sorted(NAMES, key=str.encode)
        assert listing.list_complete
        assert listing.cursor is None
        assert all(key.metadata == key.name[:9] for key in listing.keys)
        for name in NAMES:
            assert await kv.get(name) == f"value of {name}"
        assert [key.name for key in (await kv.list(prefix="a")).keys] == ["a", "a\0", "a\n", "a/../b", "a:b{c}"]
        assert [key.name for key in (await kv.list(prefix="é")).keys] == ["é", "é" * 256]
        assert (await kv.list(prefix="none")).keys == []


@pytest.mark.parametrize("size", [1, 3, 7, 100])
@in_trio
async def test_each_page_begins_where_the_last_one_ended(opened: Open, size: int) -> None:
    async with opened() as kv:
        names = [f"{group}{number:02}" for group in "ab" for number in range(7)]
        for name in names:
            await kv.put(name, name)
        for prefix in ("", "a", "b0"):
            wanted = [name for name in names if name.startswith(prefix)]
            found, cursor, is_complete = [], None, False
            while not is_complete:
                page = await kv.list(prefix=prefix, limit=size, cursor=cursor)
                assert len(page.keys) <= size
                found += [key.name for key in page.keys]
                cursor, is_complete = page.cursor, page.list_complete
                assert (cursor is None) == is_complete
            assert found == wanted


@in_trio
async def test_an_expiration_is_stored_and_an_expired_entry_is_hidden(opened: Open) -> None:
    async with opened() as kv:
        now = int(time.time())
        await kv.put("by moment", "x", expiration=now + 1000)
        await kv.put("by age", "x", expiration_ttl=60, expiration=now + 5000)
        await kv.put("for ever", "x")
        found = {key.name: key.expiration for key in (await kv.list()).keys}
        assert found["by moment"] == now + 1000
        assert found["for ever"] is None
        assert found["by age"] in range(now + 60, now + 120)
        # The namespace refuses an expiration within a minute, so this put bypasses it.
        await kv._engine.put(b"dying", b"x", b'"m"', int(time.time()) + 1)
        while await kv.get("dying") is not None:
            await trio.lowlevel.checkpoint()
        assert int(time.time()) > now
        assert "dying" not in [key.name for key in (await kv.list()).keys]
        await kv.put("dying", "again")
        assert await kv.get("dying") == "again"


@in_trio
async def test_the_largest_value_is_accepted_and_one_more_byte_is_refused(opened: Open) -> None:
    most = 25 * 1024 * 1024
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield bytes(1024 * 1024)

    async with opened() as kv:
        await kv.put("key", bytes(most))
        assert await kv.get("key", "bytes") == bytes(most)
        for value in (bytes(most + 1), endless()):
            with pytest.raises(BadArgument, match="exceeds limit of 26214400") as caught:
                await kv.put("key", value)
            assert caught.value.status == 413
        assert read <= 27
        assert len(await kv.get("key", "bytes")) == most
        await kv.put("other", bytes(100))
        with pytest.raises(BadArgument, match="ask for fewer keys"):
            await kv.get(["key", "other"], "text")


LONG = "x" * 513
WRONG: list[tuple[str, dict[str, Any], int, str]] = [
    ("get", {"key": ""}, 400, "Key name cannot be empty"),
    ("get", {"key": "."}, 400, '"." is not allowed'),
    ("put", {"key": "..", "value": "x"}, 400, '".." is not allowed'),
    ("delete", {"key": LONG}, 414, "UTF-8 encoded length of 513 exceeds key length limit of 512"),
    ("get", {"key": "é" * 257}, 414, "length of 514"),
    ("get", {"key": ["fine", LONG]}, 414, "length of 513"),
    ("get", {"key": "\ud800"}, 400, "UTF-8"),
    ("get", {"key": "key", "type": "xml"}, 400, "Unknown type 'xml'"),
    ("put", {"key": "key", "value": "x", "expiration_ttl": -1}, 400, "greater than 0"),
    ("put", {"key": "key", "value": "x", "expiration_ttl": 0}, 400, "greater than 0"),
    ("put", {"key": "key", "value": "x", "expiration_ttl": 59}, 400, "at least 60"),
    ("put", {"key": "key", "value": "x", "expiration_ttl": float("nan")}, 400, "Invalid expiration_ttl"),
    ("put", {"key": "key", "value": "x", "expiration_ttl": 10**30}, 400, "too far"),
    ("put", {"key": "key", "value": "x", "expiration": 1}, 400, "greater than the current number of seconds"),
    ("put", {"key": "key", "value": "x", "metadata": "m" * 1023}, 413, "length of 1025 exceeds limit of 1024"),
    ("put", {"key": "key", "value": "x", "metadata": float("inf")}, 400, "can't be JSON"),
    ("list", {"options": {"count": 1}}, 400, "Unknown option 'count'"),
    ("put", {"key": "key", "value": "x", "options": {"ttl": 60}}, 400, "Unknown option 'ttl'"),
    ("get", {"key": "key", "type": {"cache": 60}}, 400, "Unknown option 'cache'"),
    ("get", {"key": "key", "cache_ttl": 29}, 400, "at least 30"),
    ("get", {"key": ["key"], "type": {"cache_ttl": 0}}, 400, "at least 30"),
    ("get", {"key": ["key"], "type": "bytes"}, 400, '"bytes" is not a valid type for several keys'),
    ("get_with_metadata", {"key": ["key"], "type": "stream"}, 400, '"stream" is not a valid type for several keys'),
    ("get", {"key": ["key"], "type": "json"}, 400, "non-JSON"),
    ("list", {"limit": 1001}, 400, "Invalid key_count_limit"),
    ("list", {"prefix": LONG}, 414, "length of 513"),
    ("list", {"cursor": "not one"}, 400, "Invalid cursor"),
    ("list", {"prefix": "b", "cursor": "YQ"}, 400, "Invalid cursor"),  # that of "a"
]


@pytest.mark.parametrize(("method", "arguments", "status", "said"), WRONG)
@in_trio
async def test_an_invalid_argument_is_refused_and_changes_nothing(
    opened: Open, method: str, arguments: dict[str, Any], status: int, said: str
) -> None:
    async with opened() as kv:
        await kv.put("key", "kept", metadata=1)
        with pytest.raises(BadArgument, match=said) as caught:
            await getattr(kv, method)(**arguments)
        assert caught.value.status == status
        assert await everything(kv) == {"key": ("kept", 1)}


@pytest.mark.parametrize(
    "wrong",
    [{"value": 5}, {"value": None}, {"value": "x", "expiration_ttl": "60"}, {"value": "x", "metadata": {1, 2}}],
)
@in_trio
async def test_an_argument_of_the_wrong_type_raises_type_error(opened: Open, wrong: dict[str, Any]) -> None:
    async with opened() as kv:
        await kv.put("key", "kept")
        with pytest.raises(TypeError):
            await kv.put("key", **wrong)
        with pytest.raises(TypeError):
            await kv.get(b"key")  # type: ignore[call-overload]
        assert await everything(kv) == {"key": ("kept", None)}


@pytest.mark.parametrize("wrong", [None, 0, 7, ("a", 7)])
@in_trio
async def test_a_key_that_is_no_str_raises_type_error(opened: Open, wrong: Any) -> None:
    async with opened() as kv:
        for call in (kv.get, kv.get_with_metadata, kv.delete, lambda key: kv.put(key, "x")):
            with pytest.raises(TypeError, match="a key must be a str"):
                await call(wrong)


@in_trio
async def test_options_may_be_a_dict(opened: Open) -> None:
    async with opened() as kv:
        await kv.put("a", "1", {"expiration_ttl": 1000, "metadata": "m"})
        await kv.put("b", "2")
        assert await kv.get("a", {"type": "json", "cache_ttl": 30}) == 1
        assert await kv.get(["a", "b"], {"type": "json"}, cache_ttl=60) == {"a": 1, "b": 2}
        found = await kv.get_with_metadata("a", {"cache_ttl": 3600})
        assert (found.value, found.metadata, found.cache_status) == ("1", "m", None)
        page = await kv.list({"prefix": "", "limit": 1})
        assert ([key.name for key in page.keys], page.cache_status) == (["a"], None)
        assert page.keys[0].expiration is not None
        assert [key.name for key in (await kv.list({"cursor": page.cursor})).keys] == ["b"]
        with pytest.raises(TypeError, match="given twice"):
            await kv.list({"limit": 1}, limit=2)


@pytest.mark.parametrize("options", [{"cursor": ""}, {"cursor": None}, {"limit": None}, {"limit": 0}, {"prefix": None}])
@in_trio
async def test_a_listing_has_defaults(opened: Open, options: dict[str, Any]) -> None:
    async with opened() as kv:
        await kv.put("a", "1")
        await kv.put("b", "2")
        for page in (await kv.list(options), await kv.list(**options)):
            assert ([key.name for key in page.keys], page.list_complete) == (["a", "b"], True)


@in_trio
async def test_reading_invalid_json_raises_value_error(opened: Open) -> None:
    async with opened() as kv:
        await kv.put("key", "{")
        with pytest.raises(ValueError, match="Expecting property name"):
            await kv.get("key", "json")


@in_trio
async def test_concurrent_tasks_read_their_own_writes(opened: Open) -> None:
    async with opened() as kv:

        async def work(number: int) -> None:
            for turn in range(10):
                await kv.put(f"key {number}", f"{number} {turn}", metadata=turn)
                found = await kv.get_with_metadata(f"key {number}")
                assert (found.value, found.metadata) == (f"{number} {turn}", turn)

        async with trio.open_nursery() as nursery:
            for number in range(64):
                nursery.start_soon(work, number)
        assert len((await kv.list()).keys) == 64


@in_trio
async def test_an_entry_survives_closing_and_reopening(opened: Open) -> None:
    async with opened() as kv:
        await kv.put("key", "value", metadata=[1], expiration_ttl=1000)
    async with opened() as kv:
        assert await everything(kv) == {"key": ("value", [1])}


@in_trio
async def test_two_open_namespaces_see_each_others_writes(opened: Open) -> None:
    async with opened() as one, opened() as other:
        await one.put("key", "1")
        assert await other.get("key") == "1"
        await other.put("key", "2")
        assert await one.get("key") == "2"
        await other.delete("key")
        assert await one.get("key") is None


@in_trio
async def test_a_cancelled_put_stores_the_whole_entry_or_nothing(opened: Open) -> None:
    async with opened() as kv:
        for after in range(8):
            await kv.put("key", "old", metadata="old")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: kv.put("key", "new", metadata="new"))
                for _ in range(after):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            await kv.put("another", "x")  # behind it
            found = await kv.get_with_metadata("key")
            assert (found.value, found.metadata) in [("old", "old"), ("new", "new")]


async def everything(kv: Namespace) -> dict[str, tuple[Any, Any]]:
    found = {}
    for key in (await kv.list()).keys:
        entry = await kv.get_with_metadata(key.name)
        assert entry.metadata == key.metadata
        found[key.name] = (entry.value, entry.metadata)
    return found


@in_trio
async def test_put_closes_its_stream_on_success_and_on_failure(opened: Open) -> None:
    class Stream:
        def __init__(self, part: bytes) -> None:
            self.parts = [part]
            self.is_closed = False

        def __aiter__(self) -> Stream:
            return self

        async def __anext__(self) -> bytes:
            if not self.parts:
                raise StopAsyncIteration
            return self.parts.pop()

        async def aclose(self) -> None:
            self.is_closed = True

    async with opened() as kv:
        fine, large = Stream(b"x"), Stream(bytes(25 * 1024 * 1024 + 1))
        await kv.put("key", fine)
        with pytest.raises(BadArgument):
            await kv.put("key", large)
        assert fine.is_closed
        assert large.is_closed
