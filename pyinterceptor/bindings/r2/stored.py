"""Files of the embedded bucket: written once, then never changed. Blocking calls, to be made on threads."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import trio

from pyinterceptor.bindings.database import check_room
from pyinterceptor.bindings.r2.checksums import Digests

READ = 1024 * 1024  # bytes per call on a thread
COPIED = 64 * 1024 * 1024  # bytes that the kernel copies per call on a thread


class NewFile:
    """A new file. Its bytes and its name are on the disk once `finish` has returned. The caller closes it.

    Raises OSError; ENOSPC even if the disk is only almost full.
    """

    def __init__(self, path: Path) -> None:
        self._directory = path.parent
        check_room(self._directory, 0)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self.size = 0

    def write(self, data: bytes, digests: Digests) -> None:
        digests.update(data)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]
        self.size += len(data)

    def append(self, path: Path, offset: int) -> int:
        """Appends bytes of another file from `offset` on. Returns their number, 0 at its end. copy_file_range(2)."""
        with path.open("rb") as file:
            copied = os.copy_file_range(file.fileno(), self._fd, COPIED, offset)
        self.size += copied
        return copied

    def finish(self) -> None:
        os.fsync(self._fd)
        sync_directory(self._directory)

    def close(self) -> None:
        os.close(self._fd)


class FileChunks:
    """`remaining` bytes of an open file, from `offset` on, as the chunks of a body. Also a web.body.FileSource.

    Takes the descriptor, and closes it at the end, in `aclose`, or when the object is garbage-collected. It is never
    closed while a thread reads from it, because its number could be reused for another file.
    """

    def __init__(self, file: int, offset: int, remaining: int, limiter: trio.CapacityLimiter) -> None:
        self.file = file
        self.offset = offset
        self.remaining = remaining
        self._limiter = limiter
        self._is_read = False
        self._is_over = False

    @property
    def source(self) -> FileChunks | None:
        return None if self.file < 0 else self

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self.remaining or self.file < 0:
            await self.aclose()
            raise StopAsyncIteration
        read = partial(os.pread, self.file, min(READ, self.remaining), self.offset)
        self._is_read = True
        try:
            data = await trio.to_thread.run_sync(read, limiter=self._limiter)
        finally:
            self._is_read = False
            if self._is_over:
                self.close()
        if not data:
            raise EOFError(f"an object's file ends {self.remaining} bytes before its end")
        self.offset += len(data)
        self.remaining -= len(data)
        return data

    async def aclose(self) -> None:
        if self.file >= 0 and not (self._is_read or os.fstat(self.file).st_nlink):  # removed: closing frees its blocks
            file, self.file = self.file, -1
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(os.close, file)
        self.close()

    def close(self) -> None:
        self._is_over = True
        if self.file >= 0 and not self._is_read:
            file, self.file = self.file, -1
            os.close(file)

    __del__ = close


def sync_directory(path: Path) -> None:
    """Writes the directory's entries to the disk before it returns. fsync(2)."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_whole(file: int, offset: int, length: int) -> bytes:
    """Returns `length` bytes from `offset` on. Raises EOFError if the file is shorter."""
    data = b""
    while len(data) < length:
        part = os.pread(file, length - len(data), offset + len(data))
        if not part:
            raise EOFError(f"an object's file ends {length - len(data)} bytes before its end")
        data += part
    return data
