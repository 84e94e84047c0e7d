"""An SQLite database that never blocks Trio's loop: one thread writes, another reads.

A write is on the disk when the call returns (synchronous=FULL). Concurrent writes share one transaction and its fsync.
Other processes may have the same file open. https://www.sqlite.org/wal.html
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import outcome
import trio

from pyinterceptor.bindings.jobs import Job, Jobs, each, open_jobs
from pyinterceptor.bindings.quota import Counted, count_tables
from pyinterceptor.errors import BindingError

T = TypeVar("T")

PATIENCE = 5.0  # seconds to wait until another process ends its transaction
PAUSE = 0.01  # seconds between attempts, where SQLite itself doesn't wait
CACHE = 16 * 1024  # KiB of page cache, for each of the two connections
WAL_KEPT = 64 * 1024 * 1024  # bytes; a log that a burst of large values made longer is truncated to this
MARGIN = 8 * 1024 * 1024  # bytes that stay free on the disk: on a full disk, not even a deletion would succeed
NO_SPACE = {sqlite3.SQLITE_FULL}
NO_TIME = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class Database:
    """Made by `open_database`. `do` is called with the connection, on another thread.

    Raises BindingError with status 507 if the disk is full, 504 if another process keeps the database locked, and 503
    for any other error. A failed call leaves no changes behind.
    """

    def __init__(self, name: str, reader: sqlite3.Connection, reads: Jobs, writer: sqlite3.Connection, writes: Jobs):
        self._name = name
        self._reader = reader
        self._reads = reads
        self._writer = writer
        self._writes = writes

    async def read(self, do: Callable[[sqlite3.Connection], T]) -> T:
        """Returns the result of `do`. Each query sees the database as of one moment; two queries may see two."""
        with translated(self._name):
            result: T = await self._reads.run(partial(do, self._reader))
        return result

    async def write(self, do: Callable[[sqlite3.Connection], T]) -> T:
        """Runs `do` in a transaction, which other writes may share.

        If another write makes the shared transaction fail, it is rolled back and `do` is called again.
        """
        with translated(self._name):
            result: T = await self._writes.run(partial(do, self._writer))
        return result


@asynccontextmanager
async def open_database(
    name: str, path: Path, schema: str, version: int, counted: Sequence[Counted]
) -> AsyncIterator[Database]:
    """Opens the database at `path`; if the file is new, the statements of `schema` create its tables.
    The rows of `counted` are counted for quotas.

    Messages call the database `name`. Raises BindingError.
    """
    with translated(name):
        reader, writer = await trio.to_thread.run_sync(_connect, name, path, schema, version, counted)
    with closing(reader), closing(writer):
        async with open_jobs(each) as reads, open_jobs(partial(_in_transaction, writer)) as writes:
            yield Database(name, reader, reads, writer, writes)


def check_room(directory: Path, size: int) -> None:
    """Checks that the disk has room for `size` more bytes.

    Blocking. Raises OSError (ENOSPC) if less than MARGIN would stay free.
    """
    disk = os.statvfs(directory)
    if disk.f_bavail * disk.f_frsize < size + MARGIN:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))


@contextmanager
def translated(name: str) -> Iterator[None]:
    """Raises BindingError in place of an error of SQLite or of the disk."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # without the extension
        if code in NO_SPACE:
            raise BindingError(f"{name}: no space left on the disk", 507) from error
        if code in NO_TIME:
            raise BindingError(f"{name}: another process keeps the database locked", 504) from error
        said = "the database is damaged" if code in DAMAGED else str(error)
        raise BindingError(f"{name}: {said}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BindingError(f"{name}: no space left on the disk", 507) from error
        raise BindingError(f"{name}: {error.strerror}: {error.filename}") from error


def _connect(
    name: str, path: Path, schema: str, version: int, counted: Sequence[Counted]
) -> tuple[sqlite3.Connection, sqlite3.Connection]:
    """Returns the reader's connection and the writer's."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    writer = _connection(path)
    try:
        _use_wal(writer)
        writer.execute("PRAGMA synchronous = FULL")
        writer.execute(f"PRAGMA journal_size_limit = {WAL_KEPT}")
        _make(name, writer, schema, version, counted)
        reader = _connection(path)
        reader.execute("PRAGMA query_only = ON")
        return reader, writer
    except BaseException:
        writer.close()
        raise


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switches the file to WAL mode. For this pragma SQLite ignores its timeout: if another process switches or
    closes the file at the same time, the pragma fails at once, so it is repeated here."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.Error as error:
            if not _is_locked(error) or time.monotonic() > end:
                raise
        time.sleep(PAUSE)


def _connection(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
    connection.execute(f"PRAGMA cache_size = {-CACHE}")
    return connection


def _make(name: str, writer: sqlite3.Connection, schema: str, version: int, counted: Sequence[Counted]) -> None:
    """Creates the tables, once, even if several processes open the file at the same time."""
    with transaction(writer):
        found = writer.execute("PRAGMA user_version").fetchone()[0]
        if found == 0:
            for statement in schema.split(";"):
                writer.execute(statement)
            writer.execute(f"PRAGMA user_version = {version}")
        elif found != version:
            raise BindingError(f"{name}: its file has version {found}; this release reads version {version} only")
        count_tables(writer, counted)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commits all changes of the block, or none if it raises."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite itself rolls back on some errors
            connection.execute("ROLLBACK")
        raise


@contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """The queries of the block see the database as of one moment."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("COMMIT")


def _in_transaction(writer: sqlite3.Connection, jobs: Sequence[Job]) -> None:
    """Runs all jobs in one transaction. If it fails, each runs in its own, so that only the job at fault fails."""
    try:
        with transaction(writer):
            results = [job.do() for job in jobs]
    except Exception as error:
        if len(jobs) == 1 or _is_locked(error):
            for job in jobs:
                job.outcome = outcome.Error(error)
        else:
            for job in jobs:
                _in_transaction(writer, [job])
    else:
        for job, result in zip(jobs, results, strict=True):
            job.outcome = outcome.Value(result)


def _is_locked(error: Exception) -> bool:
    """Whether another process holds the lock. A second attempt is pointless: each job would wait just as long."""
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in NO_TIME
