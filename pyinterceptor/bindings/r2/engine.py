"""What keeps the objects of a bucket. What may be asked, and how it is said, is the bucket's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from pyinterceptor.bindings.r2.conditions import Condition
from pyinterceptor.bindings.r2.metadata import HttpMetadata
from pyinterceptor.bindings.r2.ranges import Range
from pyinterceptor.web import Body


@dataclass(frozen=True, slots=True)
class Labels:
    """What goes with an object's bytes."""

    http: HttpMetadata = field(default_factory=HttpMetadata)
    custom: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stored:
    """An object, without its bytes."""

    key: str
    version: str
    size: int
    etag: str  # without quotes
    uploaded: float  # seconds since 1970
    labels: Labels
    checksums: Mapping[str, bytes]


class Opened(NamedTuple):
    """An object of which `length` bytes from `offset` on are in `body`; None: the condition isn't met."""

    stored: Stored
    offset: int
    length: int
    body: Body | None


class Position(NamedTuple):
    """Where a listing goes on: behind a key, or behind all that begins with a prefix."""

    kind: Literal["key", "prefix"]
    text: str


class Query(NamedTuple):
    prefix: str
    delimiter: str  # "" for none
    after: Position | None
    limit: int
    with_labels: bool


class Page(NamedTuple):
    """In the order of the keys' UTF-8 bytes; `end` is where the next one goes on, None where nothing follows."""

    objects: Sequence[Stored]
    prefixes: Sequence[str]
    end: Position | None


class Part(NamedTuple):
    number: int
    etag: str


class Engine(Protocol):
    """Raises: BadArgument for what R2 refuses, BindingError for faults; what failed has changed nothing."""

    async def head(self, key: str) -> Stored | None: ...

    async def get(self, key: str, range: Range | None, condition: Condition | None) -> Opened | None:
        """The body holds what it needs, whatever becomes of the object; `Body.aclose` lets it go."""

    async def put(
        self,
        key: str,
        content: AsyncIterator[bytes],
        labels: Labels,
        expected: tuple[str, bytes] | None,
        condition: Condition | None,
    ) -> Stored | None:
        """Returns when it is kept, and is what `head` and `get` find; None where the condition isn't met."""

    async def delete(self, keys: Sequence[str]) -> None:
        """Nothing happens for those that aren't there."""

    async def list(self, query: Query) -> Page: ...

    async def begin(self, key: str, labels: Labels) -> str:
        """A multipart upload; returns its id."""

    async def upload_part(self, key: str, upload: str, number: int, content: AsyncIterator[bytes]) -> str:
        """Returns the part's entity tag. It takes the place of another of its number."""

    async def complete(self, key: str, upload: str, parts: Sequence[Part]) -> Stored:
        """The parts, in this order, become the object; the upload is over."""

    async def abort(self, key: str, upload: str) -> None:
        """The upload and its parts are gone."""
