"""The index of the embedded bucket, from keys to files: rows and SQL. Each function runs inside a transaction.

A file that belongs to no object or part is listed in `unowned`, from before its creation until after its removal. So
if the process dies at any moment, the index still lists every file to remove.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from pyinterceptor.bindings.quota import Counted
from pyinterceptor.bindings.r2.conditions import Condition
from pyinterceptor.bindings.r2.engine import Labels, Page, Part, Position, Query, Stored
from pyinterceptor.bindings.r2.metadata import HttpMetadata
from pyinterceptor.bindings.r2.refusals import INVALID_PART, NO_SUCH_UPLOAD, refused

VERSION = 1
SCHEMA = """
CREATE TABLE objects (key BLOB PRIMARY KEY, file TEXT NOT NULL, size INTEGER NOT NULL, etag TEXT NOT NULL,
  uploaded REAL NOT NULL, labels TEXT NOT NULL, checksums TEXT NOT NULL);
CREATE TABLE uploads (id TEXT PRIMARY KEY, key BLOB NOT NULL, begun REAL NOT NULL, labels TEXT NOT NULL);
CREATE TABLE parts (upload TEXT NOT NULL, number INTEGER NOT NULL, file TEXT NOT NULL, size INTEGER NOT NULL,
  etag TEXT NOT NULL, PRIMARY KEY (upload, number));
CREATE TABLE unowned (file TEXT PRIMARY KEY)
"""
UPLOAD_KEY = "(SELECT key FROM uploads WHERE id = {row}.upload)"
COUNTED = [
    Counted("objects", "{row}.key", "{row}.size + length({row}.key) + length({row}.labels)", 1),
    Counted("uploads", "{row}.key", "length({row}.key) + length({row}.labels)", 1),
    Counted("parts", UPLOAD_KEY, "{row}.size", 0),
]
OBJECT = "SELECT key, file, size, etag, uploaded, labels, checksums FROM objects"
LIST = f"{OBJECT} WHERE key >= ? AND key < ? AND key > ? ORDER BY key"
BEYOND = b"\xff"  # no byte of UTF-8, so prefix + BEYOND sorts after every key with that prefix


class PartFile(NamedTuple):
    number: int
    file: str
    size: int
    etag: str


# --- objects --------------------------------------------------------------------------------------------------------


def find(connection: sqlite3.Connection, key: str) -> Stored | None:
    row = connection.execute(f"{OBJECT} WHERE key = ?", (key.encode(),)).fetchone()
    return None if row is None else _stored(row)


def page(connection: sqlite3.Connection, query: Query) -> Page:
    objects: list[Stored] = []
    prefixes: list[str] = []
    prefix, delimiter = query.prefix.encode(), query.delimiter.encode()
    after, end = b"" if query.after is None else _beyond(query.after), None
    while True:
        skipped = b""
        for row in connection.execute(LIST, (prefix, prefix + BEYOND, after)):
            if len(objects) + len(prefixes) == query.limit:
                return Page(objects, prefixes, end)
            at = row[0].find(delimiter, len(prefix)) if delimiter else -1
            if at < 0:
                objects.append(_stored(row))
                end = Position("key", objects[-1].key)
            else:
                skipped = row[0][: at + len(delimiter)]
                prefixes.append(skipped.decode())
                end = Position("prefix", prefixes[-1])
                break
        if not skipped:
            return Page(objects, prefixes, None)
        after = skipped + BEYOND


def _beyond(position: Position) -> bytes:
    return position.text.encode() + (BEYOND if position.kind == "prefix" else b"")


def store(connection: sqlite3.Connection, stored: Stored, condition: Condition | None) -> str | None:
    """Makes the file the object of its key. Returns the file it replaces, or "" if there was no object; None if the
    condition isn't met."""
    old = find(connection, stored.key)
    etag, uploaded = (None, 0.0) if old is None else (old.etag, old.uploaded)
    if condition is not None and not condition.is_met(etag, uploaded):
        return None
    checksums = json.dumps({name: digest.hex() for name, digest in stored.checksums.items()})
    row = (stored.key.encode(), stored.version, stored.size, stored.etag, stored.uploaded)
    connection.execute("DELETE FROM objects WHERE key = ?", row[:1])  # OR REPLACE wouldn't run the trigger
    connection.execute("INSERT INTO objects VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, _written(stored.labels), checksums))
    own(connection, stored.version)
    return "" if old is None else disown(connection, [old.version])[0]


def size_of(connection: sqlite3.Connection, key: str) -> int:
    """Returns the object's size; 0 if it is missing."""
    row = connection.execute("SELECT size FROM objects WHERE key = ?", (key.encode(),)).fetchone()
    return 0 if row is None else int(row[0])


def remove(connection: sqlite3.Connection, keys: Iterable[str]) -> list[str]:
    """Returns the files that are unowned now."""
    query = "DELETE FROM objects WHERE key = ? RETURNING file"
    rows = [row for key in keys for row in connection.execute(query, (key.encode(),)).fetchall()]
    return disown(connection, [file for (file,) in rows])


# --- unowned files --------------------------------------------------------------------------------------------------


def disown(connection: sqlite3.Connection, files: Sequence[str]) -> list[str]:
    connection.executemany("INSERT OR IGNORE INTO unowned VALUES (?)", [(file,) for file in files])
    return list(files)


def own(connection: sqlite3.Connection, file: str) -> None:
    connection.execute("DELETE FROM unowned WHERE file = ?", (file,))


def unowned(connection: sqlite3.Connection, files: Sequence[str]) -> list[str]:
    """Returns those of `files` that are unowned."""
    return [file for file in files if connection.execute("SELECT 1 FROM unowned WHERE file = ?", (file,)).fetchone()]


def all_unowned(connection: sqlite3.Connection) -> list[str]:
    return [file for (file,) in connection.execute("SELECT file FROM unowned")]


def forget(connection: sqlite3.Connection, files: Iterable[str]) -> None:
    """Deletes the rows of files that have been removed from the disk."""
    connection.executemany("DELETE FROM unowned WHERE file = ?", [(file,) for file in files])


# --- multipart uploads ----------------------------------------------------------------------------------------------


def begin(connection: sqlite3.Connection, upload: str, key: str, now: float, labels: Labels) -> None:
    connection.execute("INSERT INTO uploads VALUES (?, ?, ?, ?)", (upload, key.encode(), now, _written(labels)))


def check_upload(connection: sqlite3.Connection, method: str, key: str, upload: str) -> Labels:
    """Returns the metadata that the upload was begun with. Raises BadArgument if the upload is missing."""
    query = "SELECT labels FROM uploads WHERE id = ? AND key = ?"
    row = connection.execute(query, (upload, key.encode())).fetchone()
    if row is None:
        raise refused(method, NO_SUCH_UPLOAD)
    return _read(row[0])


def add_part(connection: sqlite3.Connection, key: str, upload: str, part: PartFile) -> list[str]:
    """Returns the files that are unowned now."""
    check_upload(connection, "upload_part", key, upload)
    query = "DELETE FROM parts WHERE upload = ? AND number = ? RETURNING file"
    old = [file for (file,) in connection.execute(query, (upload, part.number)).fetchall()]
    connection.execute("INSERT INTO parts VALUES (?, ?, ?, ?, ?)", (upload, *part))
    own(connection, part.file)
    return disown(connection, old)


def part_size(connection: sqlite3.Connection, upload: str, number: int) -> int:
    """Returns the part's size; 0 if it is missing."""
    row = connection.execute("SELECT size FROM parts WHERE upload = ? AND number = ?", (upload, number)).fetchone()
    return 0 if row is None else int(row[0])


def parts_named(
    connection: sqlite3.Connection, key: str, upload: str, parts: Sequence[Part]
) -> tuple[Labels, list[PartFile]]:
    """Returns the upload's metadata and the files of `parts`. Raises BadArgument if a part is missing or has another
    entity tag."""
    labels = check_upload(connection, "complete", key, upload)
    query = "SELECT number, file, size, etag FROM parts WHERE upload = ?"
    there = {row[0]: PartFile(*row) for row in connection.execute(query, (upload,))}
    for part in parts:
        if part.number not in there or there[part.number].etag != part.etag:
            raise refused("complete", INVALID_PART, f"part {part.number}")
    return labels, [there[part.number] for part in parts]


def end_upload(connection: sqlite3.Connection, method: str, key: str, upload: str) -> list[str]:
    """Returns the files of its parts, which are unowned now."""
    check_upload(connection, method, key, upload)
    rows = connection.execute("DELETE FROM parts WHERE upload = ? RETURNING file", (upload,)).fetchall()
    connection.execute("DELETE FROM uploads WHERE id = ?", (upload,))  # last: a part counts for its upload's key
    return disown(connection, [file for (file,) in rows])


def end_uploads_before(connection: sqlite3.Connection, moment: float) -> list[str]:
    """Returns the files of their parts, which are unowned now."""
    query = "SELECT id, key FROM uploads WHERE begun < ?"
    rows = connection.execute(query, (moment,)).fetchall()
    return [file for upload, key in rows for file in end_upload(connection, "abort", key.decode(), upload)]


# --- rows -----------------------------------------------------------------------------------------------------------


def _stored(row: Sequence[Any]) -> Stored:
    key, file, size, etag, uploaded, labels, checksums = row
    digests = {name: bytes.fromhex(digest) for name, digest in json.loads(checksums).items()}
    return Stored(key.decode(), file, size, etag, uploaded, _read(labels), digests)


def _written(labels: Labels) -> str:
    return json.dumps([labels.http.fields(), dict(labels.custom), labels.storage_class])


def _read(text: str) -> Labels:
    http, custom, *more = json.loads(text)  # an older file has no storage class
    return Labels(HttpMetadata.of_fields(http), custom, *more)
