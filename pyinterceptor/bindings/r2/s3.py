"""A bucket of a store that speaks S3, as R2's engine.

Through botocore, in threads: the client that Amazon maintains and that every store is tested with; what is native to
asyncio (aiobotocore) or to Rust (obstore) doesn't run on Trio, or leaves out metadata and multipart uploads by id.

What differs from the embedded engine is said here:
- Keys that stores take for other keys are refused: empty, "." and ".." segments, and control characters.
- A put of more than 8 MiB is a multipart upload, so its entity tag is no MD5. It is aborted where it fails; what
  can't be aborted is removed by the store's own rule for unfinished uploads.
- A condition is decided by what a HEAD finds, and pinned to it: If-Match or If-None-Match go with the request that
  makes the object, so it is as atomic as the store makes those.
- A store that hangs is given up after READ seconds, at most ATTEMPTS times. What it was sent by then it may still do
  when it goes on: S3 has no way to take a request back.
- Listings with metadata ask for each object. Their order is the store's: the keys' bytes by S3's own word, but stores
  whose keys are paths list what is below a name where the name stands.
"""

from __future__ import annotations

import base64
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from functools import partial
from typing import IO, Any, NamedTuple, TypeVar

import trio

from pyinterceptor.bindings.r2.checksums import Digests
from pyinterceptor.bindings.r2.conditions import Condition
from pyinterceptor.bindings.r2.engine import Labels, Opened, Page, Part, Position, Query, Stored
from pyinterceptor.bindings.r2.limits import check_part_sizes
from pyinterceptor.bindings.r2.ranges import Range
from pyinterceptor.bindings.r2.refusals import INVALID_PART, INVALID_RANGE, refused
from pyinterceptor.bindings.r2.s3_client import ATTEMPTS, READ, Missing, Place, Unmet, connect, place_of, translated
from pyinterceptor.bindings.r2.s3_labels import label_options, stored_of
from pyinterceptor.errors import BindingError
from pyinterceptor.web import Body

__all__ = ["ATTEMPTS", "READ", "S3Engine", "open_s3"]

T = TypeVar("T")

THREADS = 32  # that may wait for the store at once
PART = 8 * 1024 * 1024  # bytes that are in memory for each put
CHUNK = 256 * 1024  # bytes of one read
TRIES = 5  # for a condition, while others change the object
LAST = "\U0010ffff"  # behind whatever goes on with a prefix


@asynccontextmanager
async def open_s3(name: str, url: str) -> AsyncIterator[S3Engine]:
    """Raises: PolicyError for the URL or for missing keys, BindingError where the bucket can't be had."""
    place = place_of(name, url)
    limiter = trio.CapacityLimiter(THREADS)
    client = await trio.to_thread.run_sync(connect, place, limiter=limiter)
    try:
        engine = S3Engine(client, place, limiter)
        await engine.check()
        yield engine
    finally:
        client.close()


class Sent(NamedTuple):
    """What the store said of what was put, and when (seconds since 1970, by its clock)."""

    etag: str
    version: str | None
    moment: float


class S3Engine:
    """Made by `open_s3`."""

    def __init__(self, client: Any, place: Place, limiter: trio.CapacityLimiter) -> None:
        self._client = client
        self._place = place
        self._limiter = limiter

    async def check(self) -> None:
        """Raises: BindingError where the bucket isn't there or isn't for us."""
        await self._ask("open", "list_objects_v2", MaxKeys=1)

    # Objects.

    async def head(self, key: str) -> Stored | None:
        try:
            return stored_of(key, await self._ask("head", "head_object", key))
        except Missing:
            return None

    async def get(self, key: str, range: Range | None, condition: Condition | None) -> Opened | None:
        if range is not None and 0 in (range.length, range.suffix):
            if await self.head(key) is None:
                return None
            raise refused("get", INVALID_RANGE)
        try:
            answer = await self._ask("get", "get_object", key, **_range_option(range))
        except Missing:
            return None
        stored = stored_of(key, answer)
        chunks = S3Chunks(answer["Body"], self._in_thread)
        if condition is not None and not condition.is_met(stored.etag, stored.uploaded):
            chunks.close()
            return Opened(stored, 0, 0, None)
        offset = int(answer["ContentRange"].split()[1].partition("-")[0]) if "ContentRange" in answer else 0
        length = int(answer["ContentLength"])
        return Opened(stored, offset, length, Body(chunks, length))

    async def put(
        self,
        key: str,
        content: AsyncIterator[bytes],
        labels: Labels,
        expected: tuple[str, bytes] | None,
        condition: Condition | None,
    ) -> Stored | None:
        digests = Digests(expected)
        options, version = label_options("put", labels, expected)
        first = await self._gather(content, digests)
        if len(first) < PART:
            checksums = digests.checked()
            md5 = base64.b64encode(checksums["md5"]).decode()
            send = partial(self._ask, "put", "put_object", key, Body=first, ContentMD5=md5, **options)
            sent = await self._conditionally(key, condition, send)
            size = len(first)
        else:
            upload = _upload_id(await self._ask("put", "create_multipart_upload", key, **options))
            try:
                parts, size = await self._send_parts(key, upload, first, content, digests)
                checksums = digests.checked()
                named = {"UploadId": upload, "MultipartUpload": parts}
                send = partial(self._ask, "put", "complete_multipart_upload", key, **named)
                sent = await self._conditionally(key, condition, send)
            except BaseException:
                await self._give_up(key, upload)
                raise
            if sent is None:
                await self._give_up(key, upload)
            del checksums["md5"]
        if sent is None:
            return None
        return Stored(key, sent.version or version, size, sent.etag, sent.moment, labels, checksums)

    async def delete(self, keys: Sequence[str]) -> None:
        if keys:
            objects = [{"Key": self._name("delete", key)} for key in keys]
            answer = await self._ask("delete", "delete_objects", Delete={"Objects": objects, "Quiet": True})
            for error in answer.get("Errors", []):
                raise BindingError(f"{self._place.where}: delete: {error.get('Code')}: {error.get('Message')}")

    # Multipart uploads.

    async def begin(self, key: str, labels: Labels) -> str:
        options, _ = label_options("create_multipart_upload", labels, None)
        return _upload_id(await self._ask("create_multipart_upload", "create_multipart_upload", key, **options))

    async def upload_part(self, key: str, upload: str, number: int, content: AsyncIterator[bytes]) -> str:
        with tempfile.SpooledTemporaryFile(PART) as file:
            async for piece in content:
                await self._in_thread(partial(file.write, piece))
            file.seek(0)
            return await self._send_part("upload_part", key, upload, number, file)

    async def complete(self, key: str, upload: str, parts: Sequence[Part]) -> Stored:
        sizes: dict[Part, int] = {}  # one that was uploaded again may be there twice
        marker = 0
        while True:
            answer = await self._ask("complete", "list_parts", key, UploadId=upload, PartNumberMarker=marker)
            for part in answer.get("Parts", []):
                sizes[Part(int(part["PartNumber"]), _plain(part["ETag"]))] = int(part["Size"])
            if not answer.get("IsTruncated"):
                break
            marker = answer["NextPartNumberMarker"]
        parts = [Part(part.number, _plain(part.etag)) for part in parts]
        if missing := [part.number for part in parts if part not in sizes]:
            raise refused("complete", INVALID_PART, f"part {missing[0]}")
        check_part_sizes([sizes[part] for part in parts])
        named = _named(parts)
        await self._ask("complete", "complete_multipart_upload", key, UploadId=upload, MultipartUpload=named)
        stored = await self.head(key)
        if stored is None:
            raise BindingError(f"{self._place.where}: complete: the object was deleted at once")
        return stored

    async def abort(self, key: str, upload: str) -> None:
        await self._ask("abort", "abort_multipart_upload", key, UploadId=upload)

    # How a put is sent.

    async def _gather(self, content: AsyncIterator[bytes], digests: Digests) -> bytes:
        """The next PART bytes, fewer at the end."""
        some: list[bytes] = []
        size = 0
        while size < PART and (piece := await anext(content, None)) is not None:
            await self._in_thread(partial(digests.update, piece))
            some.append(piece)
            size += len(piece)
        return b"".join(some)

    async def _send_parts(
        self, key: str, upload: str, first: bytes, content: AsyncIterator[bytes], digests: Digests
    ) -> tuple[dict[str, Any], int]:
        """All of it; what completes the upload, and how many bytes it is."""
        parts: list[Part] = []
        size, data = 0, first
        while data:
            number = len(parts) + 1
            parts.append(Part(number, await self._send_part("put", key, upload, number, data)))
            size += len(data)
            data = await self._gather(content, digests)
        return _named(parts), size

    async def _send_part(self, method: str, key: str, upload: str, number: int, data: bytes | IO[bytes]) -> str:
        answer = await self._ask(method, "upload_part", key, UploadId=upload, PartNumber=number, Body=data)
        return _plain(answer["ETag"])

    async def _conditionally(self, key: str, condition: Condition | None, send: Callable[..., Any]) -> Sent | None:
        """Sends it, if the condition is met by what is there when it arrives."""
        if condition is None:
            return _sent(await send())
        for _ in range(TRIES):
            old = await self.head(key)
            etag, uploaded = (None, 0.0) if old is None else (old.etag, old.uploaded)
            if not condition.is_met(etag, uploaded):
                return None
            pin = {"IfNoneMatch": "*"} if old is None else {"IfMatch": f'"{etag}"'}
            try:
                return _sent(await send(**pin))
            except (Unmet, Missing):
                continue  # another was there before us: what does the condition say of it?
        raise BindingError(f"{self._place.where}: put: others change {key!r} all the time")

    async def _give_up(self, key: str, upload: str) -> None:
        """What it has of the upload isn't needed any more."""
        with trio.CancelScope(shield=True):
            try:
                await self.abort(key, upload)
            except BindingError:
                return  # the store's own rule for unfinished uploads remains

    # How the store is asked.

    async def _ask(self, method: str, operation: str, key: str | None = None, **options: Any) -> Any:
        """Raises: Missing, Unmet; BadArgument for what the store refuses as R2 does; BindingError."""
        if key is not None:
            options["Key"] = self._name(method, key)
        call = partial(getattr(self._client, operation), Bucket=self._place.bucket, **options)
        with translated(method, self._place.where):
            answer = await self._in_thread(call)
        return answer

    def _name(self, method: str, key: str) -> str:
        return self._place.name(method, key)

    async def _in_thread(self, do: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(do, limiter=self._limiter)

    # Last: its name hides the type's.

    async def list(self, query: Query) -> Page:
        prefix = self._place.prefix
        asked: dict[str, Any] = {"Prefix": prefix + query.prefix, "MaxKeys": query.limit}
        if query.delimiter:
            asked["Delimiter"] = query.delimiter
        match query.after:
            case Position("token", token):
                asked["ContinuationToken"] = token
            case Position("prefix", begin):
                asked["StartAfter"] = prefix + begin + LAST
            case Position("key", key):
                asked["StartAfter"] = prefix + key
        answer = await self._ask("list", "list_objects_v2", **asked)
        objects = [stored_of(one["Key"].removeprefix(prefix), one) for one in answer.get("Contents", [])]
        prefixes = [one["Prefix"].removeprefix(prefix) for one in answer.get("CommonPrefixes", [])]
        following = answer.get("NextContinuationToken") if answer.get("IsTruncated") else None
        if query.with_labels:
            objects = await self._labelled(objects)
        return Page(objects, prefixes, None if following is None else Position("token", following))

    async def _labelled(self, objects: Sequence[Stored]) -> Any:
        found = dict[str, Stored]()

        async def look(stored: Stored) -> None:
            found[stored.key] = await self.head(stored.key) or stored

        async with trio.open_nursery() as nursery:
            for stored in objects:
                nursery.start_soon(look, stored)
        return [found[stored.key] for stored in objects]


class S3Chunks:
    """An object's bytes as they come; what isn't read is closed in `aclose`, or when nobody holds it any more."""

    def __init__(self, body: Any, in_thread: Callable[[Callable[[], bytes]], Any]) -> None:
        self._body = body
        self._in_thread = in_thread

    def __aiter__(self) -> S3Chunks:
        return self

    async def __anext__(self) -> bytes:
        with translated("get", "R2"):
            data: bytes = await self._in_thread(partial(self._body.read, CHUNK))
        if not data:
            self.close()
            raise StopAsyncIteration
        return data

    async def aclose(self) -> None:
        self.close()

    def close(self) -> None:
        self._body.close()

    __del__ = close


def _range_option(range: Range | None) -> dict[str, str]:
    if range is None:
        return {}
    if range.suffix is not None:
        return {"Range": f"bytes=-{range.suffix}"}
    first = range.offset or 0
    return {"Range": f"bytes={first}-{'' if range.length is None else first + range.length - 1}"}


def _sent(answer: Mapping[str, Any]) -> Sent:
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    moment = time.time() if date is None else parsedate_to_datetime(date).timestamp()
    version = answer.get("VersionId")
    return Sent(_plain(answer["ETag"]), None if version == "null" else version, moment)


def _named(parts: Sequence[Part]) -> dict[str, Any]:
    return {"Parts": [{"PartNumber": part.number, "ETag": f'"{part.etag}"'} for part in parts]}


def _upload_id(answer: Mapping[str, Any]) -> str:
    return str(answer["UploadId"])


def _plain(etag: str) -> str:
    return etag.strip('"')

