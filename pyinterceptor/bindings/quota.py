"""Quotas of storage: how many bytes and entries a namespace, or one container in it, may keep.

The database counts: triggers keep the sums of its tables in the table `usage`, in the transaction that changes a row.
A key that begins with 64 hexadecimal digits, as `ctx.container_id` has, counts for that container too.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from pyinterceptor.arguments import Allowed, instances, optional
from pyinterceptor.errors import BindingError, PolicyError

log = logging.getLogger(__name__)
ID = 64  # digits of a container's id
WHOLE = b""  # the owner of the row that counts the whole namespace
ADD = "ON CONFLICT (owner) DO UPDATE SET bytes = bytes + excluded.bytes, entries = entries + excluded.entries"


@dataclass(frozen=True, slots=True)
class Quota:
    """The most that may be kept: `bytes` of keys, values and metadata, and `entries`. Raises PolicyError."""

    bytes: int
    entries: int = 1_000_000

    def __post_init__(self) -> None:
        for number in (self.bytes, self.entries):
            if isinstance(number, bool) or not isinstance(number, int) or number < 0:
                raise PolicyError(f"a Quota's bytes and entries must be int, at least 0, not {number!r}")


QUOTAS: Allowed = dict.fromkeys(("quota", "per_container"), optional(instances(Quota, "a Quota")))


class Used(NamedTuple):
    bytes: int
    entries: int


class Counted(NamedTuple):
    """A table that counts. `key` and `size` are SQL of a row, which stands as {row} in them."""

    table: str
    key: str
    size: str
    entries: int  # that a row counts for


@dataclass(frozen=True, slots=True)
class Quotas:
    """The quotas of one namespace, which messages call `name`."""

    name: str
    whole: Quota
    container: Quota | None

    @contextmanager
    def kept(self, connection: sqlite3.Connection, key: bytes) -> Iterator[None]:
        """Raises BindingError (507) if the block, part of a transaction, takes the owners of `key` beyond a quota.

        A change that takes no more than there was passes, so that a namespace above its quota can be emptied.
        """
        before = self.used(connection, key)
        yield
        for (who, quota, then), (_, _, now) in zip(before, self.used(connection, key), strict=True):
            for kind in ("bytes", "entries"):
                limit, grown = getattr(quota, kind), getattr(now, kind)
                if grown > limit and grown > getattr(then, kind):
                    raise self._exceeded(who, limit, kind)

    def used(self, connection: sqlite3.Connection, key: bytes) -> list[tuple[str, Quota, Used]]:
        """Returns each quota that `key` is under, with its owner's name and the sums."""
        owners = [("", self.whole, WHOLE)]
        if self.container is not None and is_owned(key):
            owners.append((" of the container", self.container, key[:ID]))
        return [(who, quota, _used(connection, owner)) for who, quota, owner in owners]

    def check_writing(
        self, used: Sequence[tuple[str, Quota, Used]], key: bytes, replaced: int, writing: Sequence[tuple[bytes, int]]
    ) -> None:
        """Raises BindingError (507) if the bytes that are being written would exceed a quota that `key` is under.

        `used` are the sums; of them, `replaced` bytes are freed when the call succeeds. `writing` has the key and the
        bytes of each call in progress, and no call whose bytes are in the sums.
        """
        for who, quota, sums in used:
            more = sum(size for other, size in writing if not who or other[:ID] == key[:ID])
            if sums.bytes + more - replaced > quota.bytes:
                raise self._exceeded(who, quota.bytes, "bytes")

    def _exceeded(self, who: str, limit: int, kind: str) -> BindingError:
        return BindingError(f"{self.name}: the quota{who} of {limit} {kind} is used up", 507)


def warn_uncounted(name: str, *given: Quota | None) -> None:
    """Logs a warning if a quota was given to an engine that doesn't count."""
    if any(quota is not None for quota in given):
        log.warning("%s: its server doesn't count, so the quota isn't enforced; set a limit on the server", name)


def is_owned(key: bytes) -> bool:
    """Whether the key begins with a container's id."""
    return len(key) >= ID and all(digit in b"0123456789abcdef" for digit in key[:ID])


def count_tables(connection: sqlite3.Connection, tables: Sequence[Counted]) -> None:
    """Makes the table and its triggers, once, and counts the rows that are there. Runs inside a transaction."""
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'usage'").fetchone():
        return
    connection.execute(
        "CREATE TABLE usage (owner BLOB PRIMARY KEY, bytes INTEGER NOT NULL, entries INTEGER NOT NULL) WITHOUT ROWID"
    )
    for one in tables:
        key, size = one.key.format(row=one.table), one.size.format(row=one.table)
        sums = f"coalesce(sum({size}), 0), {one.entries} * count(*) FROM {one.table}"
        connection.execute(f"INSERT INTO usage SELECT x'', {sums} WHERE true {ADD}")
        connection.execute(f"INSERT INTO usage SELECT {_owner(key)}, {sums} WHERE {_is_owned(key)} GROUP BY 1 {ADD}")
        for event, body in [
            ("INSERT", _added(one, "NEW", 1)),
            ("DELETE", _added(one, "OLD", -1) + _cleaned(one)),
            ("UPDATE", _added(one, "OLD", -1) + _added(one, "NEW", 1)),
        ]:
            name = f"usage_{one.table}_{event.lower()}"
            connection.execute(f"CREATE TRIGGER {name} AFTER {event} ON {one.table} BEGIN {body} END")


def _added(one: Counted, row: str, sign: int) -> str:
    key, size = one.key.format(row=row), one.size.format(row=row)
    sums = f"{sign} * ({size}), {sign * one.entries}"
    return (
        f"INSERT INTO usage SELECT x'', {sums} WHERE true {ADD};"
        f"INSERT INTO usage SELECT {_owner(key)}, {sums} WHERE {_is_owned(key)} {ADD};"
    )


def _cleaned(one: Counted) -> str:
    """Deletes the row of a container that keeps nothing more, or keys of a container's making would pile up rows."""
    owner = _owner(one.key.format(row="OLD"))
    return f"DELETE FROM usage WHERE owner = {owner} AND length(owner) > 0 AND bytes = 0 AND entries = 0;"


def _owner(key: str) -> str:
    return f"CAST(substr({key}, 1, {ID}) AS BLOB)"


def _is_owned(key: str) -> str:
    return f"length({key}) >= {ID} AND CAST(substr({key}, 1, {ID}) AS TEXT) NOT GLOB '*[^0-9a-f]*'"


def _used(connection: sqlite3.Connection, owner: bytes) -> Used:
    row = connection.execute("SELECT bytes, entries FROM usage WHERE owner = ?", (owner,)).fetchone()
    return Used(0, 0) if row is None else Used(*row)
