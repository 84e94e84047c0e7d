"""The bucket that handlers use as `env.BUCKET`: the methods of R2's Workers API, in snake_case."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from pyinterceptor.bindings.r2 import limits
from pyinterceptor.bindings.r2.checksums import expected
from pyinterceptor.bindings.r2.conditions import Conditional, condition_of
from pyinterceptor.bindings.r2.content import Content, chunks
from pyinterceptor.bindings.r2.cursors import cursor_of, position_of
from pyinterceptor.bindings.r2.engine import STANDARD, STORAGE_CLASSES, Engine, Labels, Position, Query, Stored
from pyinterceptor.bindings.r2.metadata import HttpMetadata, http_metadata_of
from pyinterceptor.bindings.r2.objects import ObjectBody, Objects, R2Object
from pyinterceptor.bindings.r2.ranges import Range, Ranged, range_of
from pyinterceptor.bindings.r2.refusals import INVALID_ARGUMENT, refused
from pyinterceptor.bindings.r2.upload import MultipartUpload
from pyinterceptor.web import Headers

INCLUDED = {"http_metadata", "custom_metadata"}


class Bucket:
    """A bucket of objects, made by `R2Bucket.open`.

    https://developers.cloudflare.com/r2/api/workers/workers-api-reference/. Every method raises BadArgument, with R2's
    code in the message and an HTTP status, if R2 would refuse the call. It raises BindingError, with 503, 504 or 507,
    if the engine failed; nothing has changed then.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def head(self, key: str) -> R2Object | None:
        """Returns the object without its bytes; None if it is missing."""
        stored = await self._engine.head(limits.check_key("head", key))
        return None if stored is None else R2Object(stored)

    async def get(self, key: str, *, only_if: Conditional = None, range: Ranged = None) -> R2Object | ObjectBody | None:
        """Returns the object with its bytes, or with those in `range`; None if it is missing.

        Returns the object without a body if `only_if` isn't met. `only_if` and `range` may both be the Headers of a
        request. Raises BadArgument (416) if the range begins past the end.
        """
        condition, asked = condition_of("get", only_if), range_of(range)
        opened = await self._engine.get(limits.check_key("get", key), asked, condition)
        if opened is None:
            return None
        if opened.body is None:
            return R2Object(opened.stored)
        return ObjectBody(opened.stored, Range(opened.offset, opened.length), opened.body)

    async def put(
        self,
        key: str,
        value: Content,
        *,
        http_metadata: HttpMetadata | Mapping[str, Any] | Headers | None = None,
        custom_metadata: Mapping[str, str] | None = None,
        storage_class: str | None = None,
        only_if: Conditional = None,
        md5: bytes | str | None = None,
        sha1: bytes | str | None = None,
        sha256: bytes | str | None = None,
        sha384: bytes | str | None = None,
        sha512: bytes | str | None = None,
    ) -> R2Object | None:
        """Stores the whole object, or nothing. Returns None if the current object doesn't meet `only_if`.

        Takes a stream of any length. `storage_class` is "Standard" (the default) or "InfrequentAccess"; it is kept and
        returned, and has no other effect. At most one checksum may be given; raises BadArgument if the content's
        checksum differs.
        """
        checksum = expected({"md5": md5, "sha1": sha1, "sha256": sha256, "sha384": sha384, "sha512": sha512})
        labels, condition = _labels("put", http_metadata, custom_metadata, storage_class), condition_of("put", only_if)
        limits.check_key("put", key)
        async with aclosing(chunks("put", value)) as content:
            stored = await self._engine.put(key, content, labels, checksum, condition)
        return None if stored is None else R2Object(stored)

    async def delete(self, keys: str | Collection[str]) -> None:
        """Deletes up to 1000 objects. A missing one is no error."""
        some = [keys] if isinstance(keys, str) else list(keys)
        if len(some) > limits.DELETED:
            raise refused("delete", INVALID_ARGUMENT, f"{len(some)} keys exceed the limit of {limits.DELETED}")
        await self._engine.delete([limits.check_key("delete", key) for key in some])

    async def list(
        self,
        *,
        limit: int = limits.LISTED,
        prefix: str = "",
        cursor: str | None = None,
        delimiter: str = "",
        start_after: str = "",
        include: Collection[str] = (),
    ) -> Objects:
        """Returns a page of the objects whose keys begin with `prefix`, in the order of the keys' UTF-8 bytes.

        Keys that contain `delimiter` after the prefix are grouped: each group is listed once, by its common prefix.
        Objects carry only the metadata that `include` names: "http_metadata", "custom_metadata".
        """
        limits.check_limit(limit)
        for text in (prefix, delimiter, start_after):
            _check_text(text)
        if isinstance(include, str) or set(include) - INCLUDED:
            raise refused("list", INVALID_ARGUMENT, f"include must be a list of {' and '.join(sorted(INCLUDED))}")
        after = Position("key", start_after) if start_after else None
        if cursor is not None:
            after = position_of(cursor, prefix)
        page = await self._engine.list(Query(prefix, delimiter, after, limit, bool(include)))
        following = None if page.end is None else cursor_of(page.end, prefix)
        objects = [R2Object(_with_labels(stored, include)) for stored in page.objects]
        return Objects(objects, page.prefixes, following is not None, following)

    async def create_multipart_upload(
        self,
        key: str,
        *,
        http_metadata: HttpMetadata | Mapping[str, Any] | Headers | None = None,
        custom_metadata: Mapping[str, str] | None = None,
        storage_class: str | None = None,
    ) -> MultipartUpload:
        """Begins a multipart upload. It is deleted if it isn't completed within seven days."""
        labels = _labels("create_multipart_upload", http_metadata, custom_metadata, storage_class)
        upload = await self._engine.begin(limits.check_key("create_multipart_upload", key), labels)
        return MultipartUpload(self._engine, key, upload)

    def resume_multipart_upload(self, key: str, upload_id: str) -> MultipartUpload:
        """Returns an upload that was begun before, maybe by another process. Its existence isn't checked here: the
        upload's methods raise BadArgument (404) if it is missing."""
        limits.check_key("resume_multipart_upload", key)
        if not isinstance(upload_id, str):
            raise TypeError(f"resume_multipart_upload: an upload's id must be a str, not {type(upload_id).__name__}")
        return MultipartUpload(self._engine, key, upload_id)


def _labels(
    method: str,
    http: HttpMetadata | Mapping[str, Any] | Headers | None,
    custom: Mapping[str, str] | None,
    storage_class: str | None,
) -> Labels:
    if not (custom is None or isinstance(custom, Mapping)):
        raise TypeError(f"{method}: custom_metadata must map str to str, not be a {type(custom).__name__}")
    if storage_class is None:
        storage_class = STANDARD
    if storage_class not in STORAGE_CLASSES:
        known = " or ".join(map(repr, STORAGE_CLASSES))
        raise refused(method, INVALID_ARGUMENT, f"storage_class must be {known}, not {storage_class!r}")
    labels = Labels(http_metadata_of(method, http), dict(custom or {}), storage_class)
    limits.check_metadata(method, labels.http.fields(), labels.custom)
    return labels


def _with_labels(stored: Stored, include: Collection[str]) -> Stored:
    """Returns the object with only the metadata that `include` names."""
    labels = Labels(
        stored.labels.http if "http_metadata" in include else HttpMetadata(),
        stored.labels.custom if "custom_metadata" in include else {},
        stored.labels.storage_class,
    )
    return replace(stored, labels=labels)


def _check_text(text: str) -> None:
    if not isinstance(text, str):
        raise TypeError(f"list: prefix, delimiter and start_after must be str, not {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise refused("list", INVALID_ARGUMENT, "UTF-8 can't encode prefix, delimiter or start_after") from None
