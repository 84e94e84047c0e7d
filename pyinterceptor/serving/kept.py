"""The rules that calls have set, on the disk: they outlive the run and the process.

One SQLite file for each state, which root alone can read. A write is on the disk when the call returns, and a process
that is killed leaves the rules of the last write. Nothing is held open between two writes, since they are rare.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import trio

from pyinterceptor.app.changes import Changes, changes_of, text_of
from pyinterceptor.bindings.database import PATIENCE, transaction, translated
from pyinterceptor.errors import BindingError

FILE = "rules.sqlite"
NAME = "rules"  # in messages
VERSION = 1
SCHEMA = "CREATE TABLE rules (class TEXT, name TEXT, changes TEXT NOT NULL, PRIMARY KEY (class, name))"
PUT = "INSERT OR REPLACE INTO rules VALUES (?, ?, ?)"
DELETE = "DELETE FROM rules WHERE class = ? AND name = ?"

Key = tuple[str, str]  # class and name of a container


class Kept:
    """The rules of all containers of a state. `found` are those of earlier processes; without a path none are kept."""

    def __init__(self, path: Path | None, found: Mapping[Key, Changes]) -> None:
        self.found = found
        self._path = path
        self._writing = trio.Lock()

    async def write(self, key: Key, changes: Changes) -> None:
        """Replaces the rules of one container. Raises BindingError; then the old ones are on the disk."""
        if self._path is None:
            return
        async with self._writing:
            with trio.CancelScope(shield=True):  # a write can't be taken back
                await trio.to_thread.run_sync(_write, self._path, key, changes)


async def open_kept(directory: Path, *, fresh: bool = False) -> Kept:
    """Reads the rules below a state's directory; none if `fresh`. Raises BindingError if they can't be read."""
    path = directory / FILE
    found = {} if fresh else await trio.to_thread.run_sync(partial(_read, path))
    return Kept(path, found)


def _read(path: Path) -> dict[Key, Changes]:
    if not path.exists():
        return {}
    with _opened(path) as connection:
        rows = connection.execute("SELECT class, name, changes FROM rules").fetchall()
    try:
        return {(cls, name): changes_of(text) for cls, name, text in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise BindingError(f"{NAME}: {path} is damaged; --fresh ignores it") from error


def _write(path: Path, key: Key, changes: Changes) -> None:
    with translated(NAME):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    with _opened(path) as connection, transaction(connection):
        if changes:
            connection.execute(PUT, (*key, text_of(changes)))
        else:
            connection.execute(DELETE, key)


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    with translated(NAME), closing(sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = EXTRA")  # a new file's name, too, is on the disk
        with transaction(connection):
            found = connection.execute("PRAGMA user_version").fetchone()[0]
            if found == 0:
                connection.execute(SCHEMA)
                connection.execute(f"PRAGMA user_version = {VERSION}")
            elif found != VERSION:
                raise BindingError(f"{NAME}: {path} has version {found}; this release reads version {VERSION} only")
        yield connection
