"""A multipart upload: parts are sent in any order, by any process that has its key and id, and then joined at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

from pyinterceptor.bindings.r2 import limits
from pyinterceptor.bindings.r2.content import Content, chunks
from pyinterceptor.bindings.r2.engine import Engine, Part
from pyinterceptor.bindings.r2.objects import R2Object, UploadedPart
from pyinterceptor.bindings.r2.refusals import INVALID_PART, NO_SUCH_UPLOAD, refused
from pyinterceptor.errors import BadArgument


class MultipartUpload:
    """Made by `Bucket.create_multipart_upload` and `resume_multipart_upload`. An upload outlives the process that began
    it.

    Every method but `abort` raises BadArgument (404) if the upload was completed, was aborted or never began.
    """

    def __init__(self, engine: Engine, key: str, upload_id: str) -> None:
        self._engine = engine
        self.key = key
        self.upload_id = upload_id

    async def upload_part(self, part_number: int, value: Content) -> UploadedPart:
        """Uploads part 1 to 10 000. All parts must have the same size, at least 5 MiB; only the last may be smaller."""
        limits.check_part_number("upload_part", part_number)
        async with aclosing(chunks("upload_part", value)) as content:
            etag = await self._engine.upload_part(self.key, self.upload_id, part_number, content)
        return UploadedPart(part_number, etag)

    async def complete(self, uploaded_parts: Sequence[UploadedPart | Mapping[str, Any]]) -> R2Object:
        """Makes the object from the named parts, in the order of their numbers."""
        parts = sorted(map(_part, uploaded_parts))
        numbers = [part.number for part in parts]
        if not parts or len(set(numbers)) < len(numbers):
            raise refused("complete", INVALID_PART, "name at least one part, and each only once")
        return R2Object(await self._engine.complete(self.key, self.upload_id, parts))

    async def abort(self) -> None:
        """Ends the upload and deletes its parts. An upload that has ended already is no error."""
        try:
            await self._engine.abort(self.key, self.upload_id)
        except BadArgument as error:
            if error.status != NO_SUCH_UPLOAD.status:
                raise


def _part(given: UploadedPart | Mapping[str, Any]) -> Part:
    try:
        part = given if isinstance(given, UploadedPart) else UploadedPart(**given)
    except TypeError as error:
        raise TypeError("complete: a part must have a part_number and an etag") from error
    limits.check_part_number("complete", part.part_number)
    if not isinstance(part.etag, str):
        raise TypeError(f"complete: an etag must be a str, not {type(part.etag).__name__}")
    return Part(part.part_number, part.etag)
