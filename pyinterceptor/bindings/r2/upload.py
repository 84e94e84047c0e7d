"""A multipart upload: parts in any order, by anyone who knows its key and id, then all at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

from pyinterceptor.bindings.r2 import limits
from pyinterceptor.bindings.r2.content import Content, chunks
from pyinterceptor.bindings.r2.engine import Engine, Part
from pyinterceptor.bindings.r2.objects import R2Object, UploadedPart
from pyinterceptor.bindings.r2.refusals import INVALID_PART, refused


class MultipartUpload:
    """Made by `Bucket.create_multipart_upload` and `resume_multipart_upload`; it outlives the process that began it.

    Raises: BadArgument (404) in every method where it was completed, aborted or never begun.
    """

    def __init__(self, engine: Engine, key: str, upload_id: str) -> None:
        self._engine = engine
        self.key = key
        self.upload_id = upload_id

    async def upload_part(self, part_number: int, value: Content) -> UploadedPart:
        """Part 1 to 10 000: all of one size, at least 5 MiB, but the last, which may be smaller."""
        limits.check_part_number("upload_part", part_number)
        async with aclosing(chunks("upload_part", value)) as content:
            etag = await self._engine.upload_part(self.key, self.upload_id, part_number, content)
        return UploadedPart(part_number, etag)

    async def complete(self, uploaded_parts: Sequence[UploadedPart | Mapping[str, Any]]) -> R2Object:
        """The parts that are named become the object, in the order of their numbers."""
        parts = sorted(map(_part, uploaded_parts))
        numbers = [part.number for part in parts]
        if not parts or len(set(numbers)) < len(numbers):
            raise refused("complete", INVALID_PART, "each is named once, and one at least")
        return R2Object(await self._engine.complete(self.key, self.upload_id, parts))

    async def abort(self) -> None:
        """What was uploaded is gone."""
        await self._engine.abort(self.key, self.upload_id)


def _part(given: UploadedPart | Mapping[str, Any]) -> Part:
    try:
        part = given if isinstance(given, UploadedPart) else UploadedPart(**given)
    except TypeError as error:
        raise TypeError("complete: a part has a part_number and an etag") from error
    limits.check_part_number("complete", part.part_number)
    if not isinstance(part.etag, str):
        raise TypeError(f"complete: an etag is a str, not {type(part.etag).__name__}")
    return Part(part.part_number, part.etag)
