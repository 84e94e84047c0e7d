"""Faults of a KV: a killed process, a locked database, a damaged file."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyinterceptor import KV, BindingError
from pyinterceptor.bindings import database
from pyinterceptor.bindings.kv import Namespace
from tests.bindings.faults import fails
from tests.bindings.forked import worker
from tests.bindings.kv_worker import tag_in
from tests.socket.loopback import in_trio

KILLS = 100


@asynccontextmanager
async def embedded(place: Path) -> AsyncIterator[Namespace]:
    async with KV().open("KV", place) as kv:
        yield kv


@asynccontextmanager
async def on(url: str) -> AsyncIterator[Namespace]:
    async with KV(url).open("KV", Path("/nonexistent")) as kv:
        yield kv


# --- killed ---------------------------------------------------------------------------------------------------------


class History:
    """The writes that were acknowledged to a killed process, and those it had begun."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}
        self.begun: dict[str, str] = {}
        self.done = 0
        self.taken = 0  # calls that were carried out, though the process was killed before the acknowledgement

    def hear(self, line: list[str]) -> None:
        what, key, tag = line
        if what == "begun":
            self.begun[key] = tag
        else:
            self.kept[key] = tag
            del self.begun[key]
            self.done += 1

    async def compare(self, kv: Namespace) -> None:
        for key in self.kept.keys() | self.begun.keys():
            kept = self.kept.get(key, "-")
            found = await kv.get_with_metadata(key, "bytes")
            tag = "-" if found.value is None else tag_in(found.value)
            assert tag in (kept, self.begun.get(key, kept))
            assert found.metadata == (None if tag == "-" else tag)
            self.taken += tag != kept
            self.kept[key] = tag
        listed = {key.name: key.metadata for key in (await kv.list()).keys}
        assert listed == {key: tag for key, tag in self.kept.items() if tag != "-"}
        self.begun = {}


@pytest.mark.parametrize("engine", ["embedded", "redis"])
def test_a_killed_process_loses_no_acknowledged_put_and_leaves_none_half_done(
    engine: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place = str(tmp_path)
    if engine == "redis":
        place = f"{request.getfixturevalue('redis_server').url}?prefix=killed"
    history = History()

    async def open_and_compare() -> None:
        async with embedded(tmp_path) if engine == "embedded" else on(place) as kv:
            await history.compare(kv)

    with worker("tests.bindings.kv_worker") as other:
        for turn in range(KILLS):
            other.kill("write_on", place, str(turn), history, random.randrange(1, 15))
            trio.run(open_and_compare)
    assert history.done > KILLS
    assert history.taken  # some kills came between a write and its acknowledgement


# --- the embedded engine --------------------------------------------------------------------------------------------


@in_trio
async def test_a_database_locked_by_another_process_is_504_until_it_is_unlocked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "PATIENCE", 0.3)
    async with embedded(tmp_path) as kv:
        await kv.put("key", "old")
        with closing(sqlite3.connect(tmp_path / "kv" / "KV.sqlite", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            beats = 0

            async def beat() -> None:
                nonlocal beats
                while True:
                    await trio.sleep(0.01)
                    beats += 1

            async with trio.open_nursery() as nursery:
                nursery.start_soon(beat)
                error = await fails(lambda: kv.put("key", "new"), 504)
                nursery.cancel_scope.cancel()
            assert beats > 5  # of 30: other tasks run in the meantime
            assert "another process keeps the database locked" in str(error)
            assert await kv.get("key") == "old"  # readers don't wait for the lock
            other.execute("ROLLBACK")
        assert await kv.get("key") == "old"
        await kv.put("key", "new")
        assert await kv.get("key") == "new"


@in_trio
async def test_opening_waits_for_another_process_that_creates_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kv").mkdir()
    with closing(sqlite3.connect(tmp_path / "kv" / "KV.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")

        async def put() -> None:
            async with embedded(tmp_path) as kv:
                await kv.put("key", "value")
                assert await kv.get("key") == "value"

        async with trio.open_nursery() as nursery:
            nursery.start_soon(put)
            await trio.sleep(0.3)  # the duration of the other's transaction
            other.execute("ROLLBACK")
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr(database, "PATIENCE", 0.3)
        assert "keeps the database locked" in str(await fails(put, 504))


@in_trio
async def test_a_damaged_or_newer_database_file_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    place = tmp_path / "kv"
    place.mkdir()
    (place / "KV.sqlite").write_bytes(b"no database at all" * 1000)
    with pytest.raises(BindingError, match="KV KV: the database is damaged"):
        async with embedded(tmp_path):
            pass
    (place / "KV.sqlite").unlink()
    with closing(sqlite3.connect(place / "KV.sqlite")) as newer:
        newer.execute("PRAGMA user_version = 99")
    with pytest.raises(BindingError, match="its file has version 99; this release reads version 1 only"):
        async with embedded(tmp_path):
            pass


@in_trio
async def test_only_the_owner_can_read_the_directory(tmp_path: Path) -> None:
    async with embedded(tmp_path) as kv:
        await kv.put("key", "value")
        assert (tmp_path / "kv").stat().st_mode & 0o777 == 0o700


@in_trio
async def test_later_puts_remove_expired_entries(tmp_path: Path) -> None:
    async with embedded(tmp_path) as kv:
        for number in range(20):
            await kv._engine.put(b"dead%d" % number, b"x", None, 1)
        for number in range(3):
            await kv.put(f"alive{number}", "x")
        with closing(sqlite3.connect(tmp_path / "kv" / "KV.sqlite")) as other:
            names = {name for (name,) in other.execute("SELECT key FROM entries")}
        assert names == {b"alive0", b"alive1", b"alive2"}


Step = tuple[str, str, str]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "delete", "get", "list"]),
        st.text(st.sampled_from("ab\0é/"), min_size=1, max_size=3),
        st.text(max_size=4),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_a_namespace_behaves_as_a_dict_with_sorted_keys(steps: Sequence[Step], tmp_path: Path) -> None:
    async def main() -> None:
        model: dict[str, str] = {}
        async with embedded(tmp_path) as kv:
            for key in (await kv.list()).keys:
                await kv.delete(key.name)
            for step, key, value in steps:
                match step:
                    case "put":
                        await kv.put(key, value)
                        model[key] = value
                    case "delete":
                        await kv.delete(key)
                        model.pop(key, None)
                    case "get":
                        assert await kv.get(key) == model.get(key)
                    case "list":
                        wanted = sorted((name for name in model if name.startswith(key)), key=str.encode)
                        assert [one.name for one in (await kv.list(prefix=key)).keys] == wanted
            assert [one.name for one in (await kv.list()).keys] == sorted(model, key=str.encode)

    trio.run(main)
