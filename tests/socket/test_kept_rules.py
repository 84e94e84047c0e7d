"""Rules that calls have set outlive the container, the interceptor and a kill -9."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pyinterceptor import BindingError, Container, PolicyError, Response
from pyinterceptor.serving.kept import FILE, open_kept
from tests.socket.interception import interception
from tests.socket.keeper import Keeping
from tests.socket.test_run_time_rules import Connection
from tests.socket.test_runs import in_trio

KILLS = 5


async def answers(directory: Path, cls: type[Container] = Keeping, **options: Any) -> list[tuple[int, str]]:
    """Returns the answers of a new interceptor to requests for both hosts."""
    async with interception([cls], kept=await open_kept(directory, **options)) as here:
        await here.started(cls, "one")
        return [await Connection(here, host).asks() for host in ("my.kv", "other.kv")]


@in_trio
async def test_the_next_process_finds_the_rules_of_the_last_call_and_fresh_ignores_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "state"
    async with interception([Keeping], kept=await open_kept(place)) as here:
        assert not place.exists()  # as long as no rule is set
        container = here.interceptor.get_container(Keeping, "one")
        await container.set_outbound_handler("say", {"when": b"before"})
        await container.set_outbound_by_host("my.kv", "say", [1])
        with pytest.raises(PolicyError):
            await container.set_outbound_by_host("other.kv", "nonesuch")
    assert (place / FILE).stat().st_mode & 0o777 == 0o600
    assert "earlier run" not in caplog.text
    assert await answers(place) == [(200, "[1]"), (200, "{'when': b'before'}")]
    assert caplog.text.count("Keeping 'one': rules of an earlier run are in force: my.kv: say, *: say") == 1
    assert [status for status, _ in await answers(place, fresh=True)] == [520, 520]
    assert await answers(place) == [(200, "[1]"), (200, "{'when': b'before'}")]
    async with interception([Keeping], kept=await open_kept(place)) as here:
        await here.interceptor.get_container(Keeping, "one").reset_outbound()
    assert [status for status, _ in await answers(place)] == [520, 520]


@in_trio
async def test_a_killed_interceptor_leaves_the_rules_of_the_last_call_that_returned(tmp_path: Path) -> None:
    last = 0
    for kill in range(KILLS):
        argv = [sys.executable, "-m", "tests.socket.keeper", str(tmp_path), str(last + 1)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:  # noqa: ASYNC220
            assert process.stdout is not None
            stop = f"{'done' if kill % 2 else 'begun'} {last + 5 + kill}\n"
            while (line := process.stdout.readline()) != stop:
                assert line
            process.kill()
            rest = process.stdout.read().splitlines()
        lines = [stop.strip(), *(line for line in rest if line.count(" ") == 1)]
        done = [int(line.split()[1]) for line in lines if line.startswith("done")]
        begun = [int(line.split()[1]) for line in lines if line.startswith("begun")]
        (_, mine), (_, other) = await answers(tmp_path)
        assert mine == other  # both rules of one call
        last = int(mine)
        assert max([*done, *(number - 1 for number in begun)]) <= last <= max([*begun, *done])


@in_trio
async def test_a_kept_handler_that_the_class_no_longer_has_refuses_its_host_until_it_is_set_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with interception([Keeping], kept=await open_kept(tmp_path)) as here:
        await here.interceptor.get_container(Keeping, "one").set_outbound_by_host("my.kv", "say")

    async def renamed(request: Any, env: Any, ctx: Any) -> Response:
        return Response("renamed")

    later = type(Container)("Keeping", (Container,), {"outbound": renamed, "outbound_handlers": {"tell": renamed}})
    async with interception([later], kept=await open_kept(tmp_path)) as here:
        container = await here.started(later, "one")
        assert "my.kv is refused: outbound_handlers has no 'say' any more" in caplog.text
        mine, other = Connection(here), Connection(here, "other.kv")
        assert (await mine.asks())[0] == 520
        assert await other.asks() == (200, "renamed")
        await container.set_outbound_by_host("my.kv", "tell")
        assert await mine.asks() == (200, "renamed")


@in_trio
async def test_a_file_of_another_version_or_a_damaged_one_is_an_error_and_no_empty_policy(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no database " * 1000)
    with pytest.raises(BindingError, match="rules: the database is damaged"):
        await open_kept(tmp_path)
    (tmp_path / FILE).unlink()
    connection = sqlite3.connect(tmp_path / FILE)
    connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(BindingError, match="has version 9; this release reads version 1 only"):
        await open_kept(tmp_path)
