"""What keeps the entries of a KV: bytes in, bytes out. What they mean, and what is allowed, is the namespace's."""

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
    """Entries whose expiration has come are as if they weren't there.

    Raises: BindingError; what failed has changed nothing.
    """

    async def get(self, keys: Sequence[bytes]) -> Sequence[Entry | None]:
        """In the order of the keys."""

    async def put(self, key: bytes, value: bytes, metadata: bytes | None, expiration: int | None) -> None:
        """Returns when it is kept."""

    async def delete(self, key: bytes) -> None:
        """Nothing happens if it isn't there."""

    async def list(self, prefix: bytes, after: bytes, limit: int) -> Sequence[Listed]:
        """The first `limit` entries of the prefix whose keys come after `after`, in the order of their bytes."""
