"""The interface of a bucket's storage engines. The bucket itself checks arguments and defines the handlers' API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from pyinterceptor.bindings.r2.conditions import Condition
from pyinterceptor.bindings.r2.metadata import HttpMetadata
from pyinterceptor.bindings.r2.ranges import Range
from pyinterceptor.web import Body

STANDARD = "Standard"
STORAGE_CLASSES = (STANDARD, "InfrequentAccess")


@dataclass(frozen=True, slots=True)
class Labels:
    """An object's metadata."""

    http: HttpMetadata = field(default_factory=HttpMetadata)
    custom: Mapping[str, str] = field(default_factory=dict)
    storage_class: str = STANDARD


@dataclass(frozen=True, slots=True)
class Stored:
    """An object without its bytes."""

    key: str
    version: str
    size: int
    etag: str  # without quotes
    uploaded: float  # seconds since 1970
    labels: Labels
    checksums: Mapping[str, bytes]


class Opened(NamedTuple):
    """An object and `length` of its bytes, from `offset` on. `body` is None if the condition isn't met."""

    stored: Stored
    offset: int
    length: int
    body: Body | None


class Position(NamedTuple):
    """The position where a listing resumes: after a key, or after all keys with a prefix."""

    kind: Literal["key", "prefix"]
    text: str


class Query(NamedTuple):
    prefix: str
    delimiter: str  # "" for none
    after: Position | None
    limit: int
    with_labels: bool


class Page(NamedTuple):
    """A page of a listing, in the order of the keys' UTF-8 bytes. The next page begins at `end`; None on the last."""

    objects: Sequence[Stored]
    prefixes: Sequence[str]
    end: Position | None


class Part(NamedTuple):
    number: int
    etag: str


class Engine(Protocol):
    """Every method raises BadArgument if R2 would refuse the call, and BindingError for a fault. A method that fails
    has changed nothing."""

    async def head(self, key: str) -> Stored | None: ...

    async def get(self, key: str, range: Range | None, condition: Condition | None) -> Opened | None:
        """Returns the object with its body; None if it is missing. A later replacement or deletion of the object
        doesn't affect the body, which holds its resources until `Body.aclose`."""

    async def put(
        self,
        key: str,
        content: AsyncIterator[bytes],
        labels: Labels,
        expected: tuple[str, bytes] | None,
        condition: Condition | None,
    ) -> Stored | None:
        """Returns once the object is stored and `head` and `get` find it. None if the condition isn't met."""

    async def delete(self, keys: Sequence[str]) -> None:
        """Deletes the objects. A missing one is no error."""

    async def list(self, query: Query) -> Page: ...

    async def begin(self, key: str, labels: Labels) -> str:
        """Begins a multipart upload and returns its id."""

    async def upload_part(self, key: str, upload: str, number: int, content: AsyncIterator[bytes]) -> str:
        """Stores a part in place of an earlier one with its number. Returns its entity tag."""

    async def complete(self, key: str, upload: str, parts: Sequence[Part]) -> Stored:
        """Makes the object from the parts, in this order, and ends the upload."""

    async def abort(self, key: str, upload: str) -> None:
        """Deletes the upload and its parts."""
