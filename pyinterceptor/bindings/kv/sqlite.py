"""The embedded KV engine: a table in an SQLite file."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from pyinterceptor.bindings.database import Database, check_room, open_database
from pyinterceptor.bindings.kv.engine import Entry, Listed
from pyinterceptor.bindings.kv.limits import check_values
from pyinterceptor.bindings.quota import Counted, Quotas
from pyinterceptor.errors import BindingError

VERSION = 1
# The value is the last column, so that a listing doesn't read the overflow pages of large values.
SCHEMA = """
CREATE TABLE entries (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, expiration INTEGER, metadata BLOB, value BLOB);
CREATE INDEX by_expiration ON entries (expiration) WHERE expiration IS NOT NULL
"""
ALIVE = "(expiration IS NULL OR expiration > ?)"
GET = f"SELECT value, metadata FROM entries WHERE key = ? AND {ALIVE}"
PUT = """
INSERT INTO entries (key, expiration, metadata, value) VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE
SET expiration = excluded.expiration, metadata = excluded.metadata, value = excluded.value
"""
DELETE = "DELETE FROM entries WHERE key = ?"
LIST = f"""
SELECT key, expiration, metadata FROM entries WHERE key >= ? AND key < ? AND key > ? AND {ALIVE} ORDER BY key LIMIT ?
"""
TIMES = 2  # how often a value is written: to the log, then to its place in the file
PURGED = 8  # expired entries that each put removes; a put adds only one, so they can't accumulate
PURGE_ALL = "DELETE FROM entries WHERE expiration <= ?"
SIZE = "length({row}.key) + length({row}.value) + coalesce(length({row}.metadata), 0)"
COUNTED = [Counted("entries", "{row}.key", SIZE, 1)]
PURGE = f"DELETE FROM entries WHERE id IN (SELECT id FROM entries WHERE expiration <= ? LIMIT {PURGED})"


@asynccontextmanager
async def open_sqlite(path: Path, quotas: Quotas) -> AsyncIterator[SqliteEngine]:
    async with open_database(quotas.name, path, SCHEMA, VERSION, COUNTED) as database:
        yield SqliteEngine(database, path.parent, quotas)


class SqliteEngine:
    """The Engine made by `open_sqlite`."""

    def __init__(self, database: Database, directory: Path, quotas: Quotas) -> None:
        self._database = database
        self._directory = directory
        self._quotas = quotas

    async def get(self, keys: Sequence[bytes]) -> Sequence[Entry | None]:
        def read(connection: sqlite3.Connection) -> Sequence[Entry | None]:
            now, size = time.time(), 0
            found: list[Entry | None] = []
            for key in keys:
                row = connection.execute(GET, (key, now)).fetchone()
                found.append(None if row is None else Entry(*row))
                size += 0 if row is None else len(row[0])
                check_values(size)  # after each value: all 100 together may have a hundred times the limit
            return found

        return await self._database.read(read)

    async def put(self, key: bytes, value: bytes, metadata: bytes | None, expiration: int | None) -> None:
        def write(connection: sqlite3.Connection) -> None:
            check_room(self._directory, TIMES * len(value))
            connection.execute(PURGE, (time.time(),))
            with self._quotas.kept(connection, key):
                connection.execute(PUT, (key, expiration, metadata, value))

        def purge(connection: sqlite3.Connection) -> None:
            connection.execute(PURGE_ALL, (time.time(),))

        try:
            await self._database.write(write)
        except BindingError as error:
            if error.status != 507:
                raise
            await self._database.write(purge)  # entries that have expired don't count
            await self._database.write(write)

    async def delete(self, key: bytes) -> None:
        await self._database.write(lambda connection: _done(connection.execute(DELETE, (key,))))

    async def list(self, prefix: bytes, after: bytes, limit: int) -> Sequence[Listed]:
        query = (prefix, prefix + b"\xff", after, time.time(), limit)  # no byte of UTF-8 is 0xff
        return await self._database.read(lambda connection: [*map(Listed._make, connection.execute(LIST, query))])


def _done(_: sqlite3.Cursor) -> None:
    """Drops the cursor, which must not leave its thread."""
