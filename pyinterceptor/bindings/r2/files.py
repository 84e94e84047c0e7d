"""The embedded engine of a bucket: a file for each object, and an SQLite index from keys to files.

A file's name is random and never reused, so no key can name a file. One transaction replaces an object, so a crash
leaves either the old or the new one. Data is on the disk when the call returns.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from pyinterceptor.bindings.database import Database, open_database, snapshot, translated
from pyinterceptor.bindings.quota import Quotas
from pyinterceptor.bindings.r2 import index
from pyinterceptor.bindings.r2.checksums import Digests, multipart_etag
from pyinterceptor.bindings.r2.conditions import Condition
from pyinterceptor.bindings.r2.engine import Labels, Opened, Page, Part, Query, Stored
from pyinterceptor.bindings.r2.limits import check_part_sizes
from pyinterceptor.bindings.r2.ranges import Range
from pyinterceptor.bindings.r2.refusals import INVALID_PART, refused
from pyinterceptor.bindings.r2.stored import FileChunks, NewFile, read_whole, sync_directory
from pyinterceptor.errors import BindingError
from pyinterceptor.web import Body

T = TypeVar("T")

THREADS = 16  # threads that may wait for the disk at once
AT_ONCE = 64 * 1024  # bytes; a body up to this size is read on the index's thread, which saves a switch to another
UNCHECKED = 1024 * 1024  # bytes that a call may write between two looks at the quota
KEPT = 7 * 24 * 3600  # seconds before an incomplete multipart upload is deleted


@asynccontextmanager
async def open_files(place: Path, quotas: Quotas, kept: float) -> AsyncIterator[FilesEngine]:
    """Opens the bucket in the directory `place`. Several processes may have it open. Raises BindingError."""
    with translated(quotas.name):
        lock, is_alone = await trio.to_thread.run_sync(_prepare, place)
    try:
        async with open_database(
            quotas.name, place / "index.sqlite", index.SCHEMA, index.VERSION, index.COUNTED
        ) as database:
            engine = FilesEngine(quotas, kept, database, place / "objects")
            if is_alone:
                await engine.sweep()
            await trio.to_thread.run_sync(fcntl.flock, lock, fcntl.LOCK_SH)  # the next process must not sweep
            yield engine
            await engine.forget_removed()
    finally:
        os.close(lock)


def _prepare(place: Path) -> tuple[int, bool]:
    """Creates the directories. Returns the lock, and True if no other process has the bucket open."""
    for number in range(256):
        (place / "objects" / f"{number:02x}").mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chmod(place, 0o700)
    for directory in (place / "objects", place, place.parent):
        sync_directory(directory)
    lock = os.open(place / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return lock, True
    except BlockingIOError:
        fcntl.flock(lock, fcntl.LOCK_SH)  # waits while another process sweeps
        return lock, False
    except BaseException:
        os.close(lock)
        raise


class FilesEngine:
    """The Engine made by `open_files`."""

    def __init__(self, quotas: Quotas, kept: float, database: Database, objects: Path) -> None:
        self._name = quotas.name
        self._quotas = quotas
        self._kept = kept
        # Key and bytes of each file that is being written. A file leaves it before its commit, and a check reads it
        # after the sums, so no file counts twice. The two run on different threads; each access is a single operation.
        self._writing: dict[str, tuple[bytes, int]] = {}
        self._database = database
        self._objects = objects
        self._limiter = trio.CapacityLimiter(THREADS)
        self._removed: list[str] = []  # files that are deleted, but still listed in the index as unowned

    # Objects.

    async def head(self, key: str) -> Stored | None:
        return await self._database.read(partial(index.find, key=key))

    async def get(self, key: str, range: Range | None, condition: Condition | None) -> Opened | None:
        def open_now(connection: sqlite3.Connection) -> Opened | None:
            seen = ""
            while (stored := index.find(connection, key)) is not None:
                if condition is not None and not condition.is_met(stored.etag, stored.uploaded):
                    return Opened(stored, 0, 0, None)
                offset, length = (0, stored.size) if range is None else range.within(stored.size)
                try:
                    return Opened(stored, offset, length, self._body(stored.version, offset, length))
                except FileNotFoundError as error:
                    if stored.version == seen:
                        raise BindingError(f"{self._name}: the file of {key!r} is gone") from error
                    seen = stored.version  # the object was replaced or deleted after the lookup: look again
            return None

        return await self._database.read(open_now)

    def _body(self, version: str, offset: int, length: int) -> Body:
        chunks = FileChunks(os.open(self._path(version), os.O_RDONLY | os.O_CLOEXEC), offset, length, self._limiter)
        if length > AT_ONCE:
            return Body(chunks, length)
        try:
            return Body(read_whole(chunks.file, offset, length))
        finally:
            chunks.close()

    async def put(
        self,
        key: str,
        content: AsyncIterator[bytes],
        labels: Labels,
        expected: tuple[str, bytes] | None,
        condition: Condition | None,
    ) -> Stored | None:
        digests = Digests(expected)
        async with self._new_file() as (version, file):
            await self._write(key, version, file, content, digests, partial(index.size_of, key=key))
            checksums = digests.checked()
            await self._in_thread(file.finish)
            stored = Stored(key, version, file.size, digests.etag, _now(), labels, checksums)

            def commit(connection: sqlite3.Connection) -> str | None:
                self._writing.pop(version, None)
                with self._quotas.kept(connection, key.encode()):
                    return index.store(connection, stored, condition)

            old = await self._commit(commit)
            if old is None:
                await self._discard([version])
                return None
        await self._remove([old] if old else [])
        return stored

    async def delete(self, keys: Sequence[str]) -> None:
        await self._remove(await self._commit(partial(index.remove, keys=keys)))

    # Multipart uploads.

    async def begin(self, key: str, labels: Labels) -> str:
        upload = secrets.token_hex(32)

        def begin(connection: sqlite3.Connection) -> list[str]:
            ended = index.end_uploads_before(connection, _now() - self._kept)
            with self._quotas.kept(connection, key.encode()):
                index.begin(connection, upload, key, _now(), labels)
            return ended

        await self._remove(await self._commit(begin))
        return upload

    async def upload_part(self, key: str, upload: str, number: int, content: AsyncIterator[bytes]) -> str:
        await self._database.read(partial(index.check_upload, method="upload_part", key=key, upload=upload))
        digests = Digests()
        async with self._new_file() as (name, file):
            replaced = partial(index.part_size, upload=upload, number=number)
            await self._write(key, name, file, content, digests, replaced)
            await self._in_thread(file.finish)
            part = index.PartFile(number, name, file.size, digests.etag)

            def commit(connection: sqlite3.Connection) -> list[str]:
                self._writing.pop(name, None)
                with self._quotas.kept(connection, key.encode()):
                    return index.add_part(connection, key, upload, part)

            old = await self._commit(commit)
        await self._remove(old)
        return digests.etag

    async def complete(self, key: str, upload: str, parts: Sequence[Part]) -> Stored:
        labels, files = await self._database.read(partial(index.parts_named, key=key, upload=upload, parts=parts))
        check_part_sizes([part.size for part in files])
        async with self._new_file() as (version, file):
            for part in files:
                await self._append(file, part)
            await self._in_thread(file.finish)
            etag = multipart_etag([part.etag for part in files])
            stored = Stored(key, version, file.size, etag, _now(), labels, {})

            def commit(connection: sqlite3.Connection) -> list[str]:
                if index.parts_named(connection, key, upload, parts)[1] != files:
                    raise refused("complete", INVALID_PART, "a part was uploaded again meanwhile")
                with self._quotas.kept(connection, key.encode()):
                    ended = index.end_upload(connection, "complete", key, upload)
                    old = index.store(connection, stored, None)
                return ended + ([old] if old else [])

            left = await self._commit(commit)
        await self._remove(left)
        return stored

    async def abort(self, key: str, upload: str) -> None:
        await self._remove(await self._commit(partial(index.end_upload, method="abort", key=key, upload=upload)))

    # Files. A file is unowned until a transaction assigns it to an object or a part.

    @asynccontextmanager
    async def _new_file(self) -> AsyncIterator[tuple[str, NewFile]]:
        """Creates a file, and removes it again if the block raises."""
        name = secrets.token_hex(16)

        def announce(connection: sqlite3.Connection, removed: Sequence[str]) -> list[str]:
            index.forget(connection, removed)
            index.disown(connection, [name])
            return index.end_uploads_before(connection, _now() - self._kept)

        removed = self._take_removed()
        try:
            ended = await self._commit(partial(announce, removed=removed))
        except BaseException:
            self._removed += removed
            raise
        await self._remove(ended)
        try:
            file = await self._in_thread(partial(NewFile, self._path(name)))
            try:
                yield name, file
            finally:
                file.close()
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._discard([name])
            raise
        finally:
            self._writing.pop(name, None)

    async def _write(
        self,
        key: str,
        name: str,
        file: NewFile,
        content: AsyncIterator[bytes],
        digests: Digests,
        replaced: Callable[[sqlite3.Connection], int],
    ) -> None:
        """Writes the content. Stops at the quota; the bytes of all calls in progress count.

        `replaced` returns the size of the object or part that the file will replace.
        """

        def check(connection: sqlite3.Connection) -> None:
            with snapshot(connection):
                used, freed = self._quotas.used(connection, key.encode()), replaced(connection)
            self._quotas.check_writing(used, key.encode(), freed, list(self._writing.values()))

        checked = 0
        async for piece in content:
            self._writing[name] = key.encode(), file.size + len(piece)
            if file.size + len(piece) - checked > UNCHECKED:
                checked = file.size + len(piece)
                await self._database.read(check)
            await self._in_thread(partial(file.write, piece, digests))

    async def _append(self, file: NewFile, part: index.PartFile) -> None:
        end = file.size + part.size
        while file.size < end:
            append = partial(file.append, self._path(part.file), part.size - (end - file.size))
            try:
                copied = await self._in_thread(append)
            except BindingError as error:
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise
                raise refused("complete", INVALID_PART, f"part {part.number} was uploaded again meanwhile") from error
            if not copied:
                raise BindingError(f"{self._name}: the file of part {part.number} is shorter than it was")

    async def _commit(self, do: Callable[[sqlite3.Connection], T]) -> T:
        """Runs a transaction, and waits for it even if cancelled: the caller must know its result to clean up."""
        with trio.CancelScope(shield=True):
            result = await self._database.write(do)
        return result

    async def _discard(self, files: Sequence[str]) -> None:
        """Removes those of `files` that are unowned. If the index can't be read now, the sweep of a later start
        removes them."""
        with suppress(BindingError):
            await self._remove(await self._database.read(partial(index.unowned, files=files)))

    async def _remove(self, files: Sequence[str]) -> None:
        """Removes unowned files. Their rows in the index are deleted when the next file is created."""
        if files:
            with trio.CancelScope(shield=True), suppress(BindingError):
                await self._in_thread(partial(_unlink, [self._path(file) for file in files]))
                self._removed += files

    async def forget_removed(self) -> None:
        """Deletes the index's rows of removed files now."""
        with trio.CancelScope(shield=True), suppress(BindingError):
            await self._database.write(partial(index.forget, files=self._take_removed()))

    async def sweep(self) -> None:
        """Removes files and uploads that ended processes left. Only while no other process has the bucket open."""
        await self._commit(partial(index.end_uploads_before, moment=_now() - self._kept))
        await self._remove(await self._database.read(index.all_unowned))
        await self.forget_removed()

    def _take_removed(self) -> list[str]:
        removed, self._removed = self._removed, []
        return removed

    def _path(self, file: str) -> Path:
        return self._objects / file[:2] / file

    async def _in_thread(self, do: Callable[[], T]) -> T:
        with translated(self._name):
            result = await trio.to_thread.run_sync(do, limiter=self._limiter)
        return result

    # Last, because the method's name hides the type `list`.

    async def list(self, query: Query) -> Page:
        return await self._database.read(partial(index.page, query=query))


def _unlink(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _now() -> float:
    return round(time.time(), 3)
