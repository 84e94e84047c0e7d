"""The interface of a KV's storage engines: bytes in, bytes out. The namespace encodes values and enforces limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Entry(NamedTuple):
    value: bytes
    metadata: bytes | None


class Listed(NamedTuple):
    key: bytes
    expiration: int | None  # seconds since 1970
    metadata: bytes | None


class Engine(Protocol):
    """An expired entry counts as missing. A method that fails raises BindingError and has changed nothing."""

    async def get(self, keys: Sequence[bytes]) -> Sequence[Entry | None]:
        """Returns the entries in the order of `keys`, with None for a missing one."""

    async def put(self, key: bytes, value: bytes, metadata: bytes | None, expiration: int | None) -> None:
        """Replaces the entry of `key`. Returns once the new one is stored durably."""

    async def delete(self, key: bytes) -> None:
        """Deletes the entry. A missing one is no error."""

    async def list(self, prefix: bytes, after: bytes, limit: int) -> Sequence[Listed]:
        """Returns the first `limit` entries with this prefix whose keys come after `after`, in byte order."""
