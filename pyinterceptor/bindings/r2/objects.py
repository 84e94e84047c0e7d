"""The objects that a bucket returns to handlers: R2Object, R2ObjectBody, R2Objects, R2UploadedPart.  Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pyinterceptor.bindings.r2.checksums import Checksums
from pyinterceptor.bindings.r2.engine import Stored
from pyinterceptor.bindings.r2.metadata import HttpMetadata
from pyinterceptor.bindings.r2.ranges import Range
from pyinterceptor.web import Body, Headers


class R2Object:
    """An object without its bytes. `range` is the range that was read; `size` is always that of the whole object."""

    def __init__(self, stored: Stored, range: Range | None = None) -> None:
        self._stored = stored
        self.range = range

    @property
    def key(self) -> str:
        return self._stored.key

    @property
    def version(self) -> str:
        """A text that differs between any two uploads."""
        return self._stored.version

    @property
    def size(self) -> int:
        return self._stored.size

    @property
    def etag(self) -> str:
        return self._stored.etag

    @property
    def http_etag(self) -> str:
        """The entity tag in double quotes, as a header field needs it."""
        return f'"{self._stored.etag}"'

    @property
    def uploaded(self) -> datetime:
        return datetime.fromtimestamp(self._stored.uploaded, UTC)

    @property
    def http_metadata(self) -> HttpMetadata:
        return self._stored.labels.http

    @property
    def custom_metadata(self) -> Mapping[str, str]:
        return self._stored.labels.custom

    @property
    def checksums(self) -> Checksums:
        """The digests: `md5`, except after a multipart upload, and the checksum that was given to `put`."""
        return Checksums(self._stored.checksums)

    @property
    def storage_class(self) -> str:
        """ "Standard" or "InfrequentAccess". A listing of an S3 store shows it only if `include` names metadata."""
        return self._stored.labels.storage_class

    def write_http_metadata(self, headers: Headers) -> None:
        """Sets the header fields of `http_metadata` in `headers`."""
        for name, value in self._stored.labels.http.fields().items():
            headers.set(name, value)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.key!r}, {self.size} bytes>"


class ObjectBody(R2Object):
    """An object with its bytes, which can be read once. `body` can be passed to a Response unchanged."""

    def __init__(self, stored: Stored, range: Range | None, body: Body) -> None:
        super().__init__(stored, range)
        self.body = body

    @property
    def body_used(self) -> bool:
        return self.body.is_used

    async def bytes(self) -> bytes:
        return await self.body.bytes()

    async def text(self) -> str:
        return await self.body.text()

    async def json(self) -> Any:
        return await self.body.json()


@dataclass(frozen=True, slots=True)
class Objects:
    """A page of a listing. `cursor` requests the next page; None unless `truncated`."""

    objects: Sequence[R2Object]
    delimited_prefixes: Sequence[str]
    truncated: bool
    cursor: str | None


@dataclass(frozen=True, slots=True)
class UploadedPart:
    """An uploaded part. Keep it, because `MultipartUpload.complete` needs it."""

    part_number: int
    etag: str
