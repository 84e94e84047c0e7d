"""An SQLite database that never blocks Trio: one thread writes, one reads.

What is written is on the disk when the call returns (synchronous=FULL); writers that come together share a transaction
and its fsync. Other processes may have the same file open. https://www.sqlite.org/wal.html
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
from pyinterceptor.errors import BindingError

T = TypeVar("T")

PATIENCE = 5.0  # seconds for another process to end its transaction
PAUSE = 0.01  # seconds between attempts where SQLite doesn't wait
CACHE = 16 * 1024  # KiB of pages, for each of the two
WAL_KEPT = 64 * 1024 * 1024  # bytes: what a burst of large values has made of it is given back
MARGIN = 8 * 1024 * 1024  # bytes of the disk that what is added leaves: else nothing could be deleted any more
NO_SPACE = {sqlite3.SQLITE_FULL}
NO_TIME = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class Database:
    """Made by `open_database`. `do` gets the connection; it runs on another thread.

    Raises: BindingError with status 507 where the disk is full, 504 where another process keeps the database locked,
    503 for the rest. Nothing of what failed is kept.
    """

    def __init__(self, name: str, reader: sqlite3.Connection, reads: Jobs, writer: sqlite3.Connection, writes: Jobs):
        self._name = name
        self._reader = reader
        self._reads = reads
        self._writer = writer
        self._writes = writes

    async def read(self, do: Callable[[sqlite3.Connection], T]) -> T:
        """One query is one moment of the database."""
        with translated(self._name):
            result: T = await self._reads.run(partial(do, self._reader))
        return result

    async def write(self, do: Callable[[sqlite3.Connection], T]) -> T:
        """A transaction, which may be shared. `do` is called again where another's fault undid it."""
        with translated(self._name):
            result: T = await self._writes.run(partial(do, self._writer))
        return result


@asynccontextmanager
async def open_database(name: str, path: Path, schema: str, version: int) -> AsyncIterator[Database]:
    """`schema` makes its tables where the file is new; `name` is what messages call it.

    Raises: BindingError.
    """
    with translated(name):
        reader, writer = await trio.to_thread.run_sync(_connect, name, path, schema, version)
    with closing(reader), closing(writer):
        async with open_jobs(each) as reads, open_jobs(partial(_in_transaction, writer)) as writes:
            yield Database(name, reader, reads, writer, writes)


def check_room(directory: Path, size: int) -> None:
    """For so many bytes more. Raises: OSError (ENOSPC) also where the disk is almost full. Blocking."""
    disk = os.statvfs(directory)
    if disk.f_bavail * disk.f_frsize < size + MARGIN:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))


@contextmanager
def translated(name: str) -> Iterator[None]:
    """Errors of SQLite and of the disk as ours."""
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


def _connect(name: str, path: Path, schema: str, version: int) -> tuple[sqlite3.Connection, sqlite3.Connection]:
    """The reader's and the writer's."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    writer = _connection(path)
    try:
        _use_wal(writer)
        writer.execute("PRAGMA synchronous = FULL")
        writer.execute(f"PRAGMA journal_size_limit = {WAL_KEPT}")
        _make(name, writer, schema, version)
        reader = _connection(path)
        reader.execute("PRAGMA query_only = ON")
        return reader, writer
    except BaseException:
        writer.close()
        raise


def _use_wal(connection: sqlite3.Connection) -> None:
    """SQLite itself doesn't wait here for another that does the same, or is just closing the file."""
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


def _make(name: str, writer: sqlite3.Connection, schema: str, version: int) -> None:
    """Makes the tables, once, whoever else opens the file at the same time."""
    with transaction(writer):
        found = writer.execute("PRAGMA user_version").fetchone()[0]
        if found == 0:
            for statement in schema.split(";"):
                writer.execute(statement)
            writer.execute(f"PRAGMA user_version = {version}")
        elif found != version:
            raise BindingError(f"{name}: its file is of version {found}, and we know version {version}")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of the block, or nothing of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # some errors have ended it
            connection.execute("ROLLBACK")
        raise


def _in_transaction(writer: sqlite3.Connection, jobs: Sequence[Job]) -> None:
    """All jobs in one transaction; where that fails, each in its own: one's fault is no other's."""
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
    """Everyone would wait as long again."""
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in NO_TIME
