"""The engine of a bucket in any S3-compatible store.

The client is botocore, which AWS maintains, in a bounded pool of threads. It handles the stores' variants of S3
(signatures, addressing, errors), and stores are tested against it. S3 clients for asyncio can't run under Trio.

Deadlines: a call raises BindingError with status 504 if the store takes no connection or no byte of a body for 2 s, or
sends no byte for 4 s, and with 503 if it refuses the connection. A call that waits for a thread raises 504 if the store
answers no call for 8 s. A request that the store may have carried out is never repeated. A cancelled call waits for its
thread until the deadline, so that no write happens after its caller has ended.

A write is atomic: up to 8 MiB are sent with one PutObject, more as a multipart upload in parts of 8 MiB, which is
aborted if its stream, its checksum or its caller fails. The store verifies each part by its Content-MD5.

A store that hangs and resumes doesn't carry out old requests: an object's bytes are sent only after the store has asked
for them (s3_continue.py), and a request without a body, such as a delete or the end of an upload, only right after the
store has answered another request. The store must support "Expect: 100-continue", as HTTP/1.1 demands. S3 has no
deadline for a write. So if the store, or its disks, hang after that point, it may still complete a write that raised
504. Such a write is atomic as well.

A condition is checked against a HEAD, and If-Match or If-None-Match binds the write to the version that the HEAD saw.
If another writer was faster, both are repeated. The store must honour these fields for PutObject, and for objects above
8 MiB for CompleteMultipartUpload, as SeaweedFS does. Ceph 16 ignores them in the latter: there, a write between our
HEAD and our write is overwritten.

A key is passed to the store unchanged. A key that the store doesn't support (NUL on Ceph, `..` on stores that keep
files) is refused by the store, which raises BadArgument. Some stores, such as SeaweedFS, treat "a//b" as "a/b": don't
use them for keys that others choose.
"""

from __future__ import annotations

import logging
import re
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from email.utils import parsedate_to_datetime
from functools import partial
from itertools import repeat
from typing import Any

import trio

from pyinterceptor.bindings.r2.checksums import Digests, multipart_etag
from pyinterceptor.bindings.r2.conditions import Condition
from pyinterceptor.bindings.r2.engine import Labels, Opened, Page, Part, Position, Query, Stored
from pyinterceptor.bindings.r2.limits import PARTS, check_part_sizes
from pyinterceptor.bindings.r2.ranges import Range
from pyinterceptor.bindings.r2.refusals import ENTITY_TOO_LARGE, INVALID_PART, NO_SUCH_UPLOAD, refused
from pyinterceptor.bindings.r2.s3_body import PART, StoreChunks, content_md5, md5_of, parts_of
from pyinterceptor.bindings.r2.s3_labels import About, parameters, stored_of, version_of
from pyinterceptor.bindings.r2.s3_store import Store, StoreError, connect, place_of
from pyinterceptor.errors import BindingError
from pyinterceptor.web import Body

log = logging.getLogger("pyinterceptor")

TURNS = 20  # attempts at a call that other writers interrupt
LAST = "\U0010ffff"  # the last code point: prefix + LAST sorts after other keys with that prefix
UPLOAD = re.compile(r"(?!.*\.\.)[!-~]{1,1024}")  # an upload's id; no `..`, because some stores build a path from it
UNSAFE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # characters that XML can't contain


@asynccontextmanager
async def open_s3(name: str, url: str) -> AsyncIterator[S3Engine]:
    """Opens the bucket. Raises PolicyError if the URL is wrong, BindingError if the bucket is missing or access to it
    is denied."""
    place = place_of(name, url)
    store = await trio.to_thread.run_sync(connect, name, place)
    try:
        await store.ask("open", "head_bucket")
        yield S3Engine(store, place.prefix)
    finally:
        store.close()


class S3Engine:
    """The Engine made by `open_s3`."""

    def __init__(self, store: Store, prefix: str) -> None:
        self._store = store
        self._prefix = prefix

    async def head(self, key: str) -> Stored | None:
        return await self._head("head", key)

    async def get(self, key: str, range: Range | None, condition: Condition | None) -> Opened | None:
        if range is None and condition is None:
            try:
                response = await self._store.ask("get", "get_object", Key=self._prefix + key)
            except StoreError as error:
                if error.http == 404:
                    return None
                raise
            return self._opened(stored_of(key, response), None, response)
        for _ in repeat(None, TURNS):
            stored = await self._head("get", key)
            if stored is None:
                return None
            if condition is not None and not condition.is_met(stored.etag, stored.uploaded):
                return Opened(stored, 0, 0, None)
            part = None if range is None else range.within(stored.size)
            field = {} if part is None else {"Range": f"bytes={part[0]}-{part[0] + part[1] - 1}"}
            try:  # If-Match, because the object may have been replaced since the HEAD
                response = await self._store.ask(
                    "get", "get_object", Key=self._prefix + key, IfMatch=f'"{stored.etag}"', **field
                )
            except StoreError as error:
                if error.http not in (404, 412):
                    raise
            else:
                return self._opened(stored, part, response)
        raise self._restless("get")

    def _opened(self, stored: Stored, part: tuple[int, int] | None, response: Mapping[str, Any]) -> Opened:
        offset, length = part or (0, stored.size)
        return Opened(stored, offset, length, Body(StoreChunks(self._store, response["Body"]), length))

    async def put(
        self,
        key: str,
        content: AsyncIterator[bytes],
        labels: Labels,
        expected: tuple[str, bytes] | None,
        condition: Condition | None,
    ) -> Stored | None:
        digests = Digests(expected)
        async with aclosing(parts_of(content)) as parts:
            first = await anext(parts)
            if not first.is_last:
                return await self._put_in_parts(key, first.data, parts, labels, expected, condition)
        await self._store.run("put", partial(digests.update, first.data))
        about = About(uuid.uuid4().hex, digests.checked())
        with_labels = parameters("put", labels, about)

        async def write(bound: Mapping[str, str]) -> dict[str, Any]:
            if not first.data:
                await self._be_answered("put")
            md5 = content_md5(about.checksums["md5"])
            return await self._store.ask(
                "put", "put_object", Key=self._prefix + key, Body=first.data, ContentMD5=md5, **with_labels, **bound
            )

        response = await self._bound("put", key, condition, write)
        if response is None:
            return None
        return _written(key, about, len(first.data), response["ETag"], response, labels)

    async def _put_in_parts(
        self,
        key: str,
        data: bytes,
        rest: AsyncIterator[Any],
        labels: Labels,
        expected: tuple[str, bytes] | None,
        condition: Condition | None,
    ) -> Stored | None:
        if await self._binding("put", key, condition, is_quoted=True) is None:
            return None  # an unmet condition is found before the whole content is sent
        about = About(uuid.uuid4().hex, dict([expected] if expected else []))
        upload = await self._create("put", key, labels, about)
        digests, size, sent = Digests(expected), 0, list[dict[str, Any]]()

        async def complete(bound: Mapping[str, str]) -> dict[str, Any]:
            return await self._complete("put", key, upload, sent, bound)

        is_done = False
        try:
            while True:
                await self._store.run("put", partial(digests.update, data))
                if len(sent) == PARTS:
                    raise refused("put", ENTITY_TOO_LARGE, f"at most {PARTS} parts of {PART} bytes")
                etag = await self._send("put", key, upload, len(sent) + 1, data, md5_of(data))
                sent.append({"PartNumber": len(sent) + 1, "ETag": etag})
                size += len(data)
                part = await anext(rest, None)
                if part is None:
                    break
                data = part.data
            digests.checked()
            response = await self._bound("put", key, condition, complete)
            is_done = response is not None
        finally:
            if not is_done:
                await self._drop(key, upload)
        if response is None:
            return None
        etag = response.get("ETag") or multipart_etag([one["ETag"].strip('"') for one in sent])  # Ceph's is empty
        return _written(key, about, size, etag, response, labels)

    async def _bound(
        self,
        method: str,
        key: str,
        condition: Condition | None,
        write: Callable[[Mapping[str, str]], Awaitable[dict[str, Any]]],
    ) -> dict[str, Any] | None:
        """Runs `write` so that it replaces only an object that meets the condition. None if the current one doesn't.

        `write` takes the header fields that bind it to the object it may replace.
        """
        for turn in range(TURNS):
            # Ceph expects the entity tag without its quotes, and other stores with them: try both in turn.
            binding = await self._binding(method, key, condition, is_quoted=turn % 2 == 0)
            if binding is None:
                return None
            try:
                return await write(binding)
            except StoreError as error:
                if not binding or error.http not in (404, 409, 412):
                    raise
        raise self._restless(method)

    async def _binding(
        self, method: str, key: str, condition: Condition | None, *, is_quoted: bool
    ) -> dict[str, str] | None:
        """Returns the header fields that bind a write to the current object. None if it doesn't meet the condition."""
        if condition is None:
            return {}
        there = await self._head(method, key)
        if not (condition.is_met(None, 0) if there is None else condition.is_met(there.etag, there.uploaded)):
            return None
        if there is None:
            return {"IfNoneMatch": "*"}
        return {"IfMatch": f'"{there.etag}"' if is_quoted else there.etag}

    async def delete(self, keys: Sequence[str]) -> None:
        many = [self._prefix + key for key in keys if not UNSAFE.search(key)]
        alone = [self._prefix + key for key in keys if UNSAFE.search(key)]
        if len(many) == 1:
            alone, many = alone + many, []
        await self._be_answered("delete")
        for key in alone:
            await self._store.ask("delete", "delete_object", Key=key)
        if many:
            named = {"Objects": [{"Key": key} for key in many], "Quiet": True}
            response = await self._store.ask("delete", "delete_objects", Delete=named)
            if errors := response.get("Errors"):
                code = errors[0].get("Code")
                raise BindingError(f"{self._store.where}: delete: {len(errors)} of {len(many)} keys are left: {code}")

    async def list(self, query: Query) -> Page:
        asked: dict[str, Any] = {"Prefix": self._prefix + query.prefix, "MaxKeys": query.limit}
        skipped = None  # the last page's prefix, which some stores list again
        match query.after:
            case Position("prefix", prefix):
                skipped = prefix
                asked["StartAfter"] = self._prefix + prefix + LAST
            case Position("key", key):
                asked["StartAfter"] = self._prefix + key
        if query.delimiter:
            asked["Delimiter"] = query.delimiter
        objects: list[Stored] = []
        prefixes: list[str] = []
        while True:
            response = await self._store.ask("list", "list_objects_v2", **asked)
            for one in response.get("CommonPrefixes", ()):
                if (prefix := one["Prefix"].removeprefix(self._prefix)) != skipped:
                    prefixes.append(prefix)
            for one in response.get("Contents", ()):
                stored = _listed(one["Key"].removeprefix(self._prefix), one)
                if skipped is None or not stored.key.startswith(skipped):
                    objects.append(stored)
            if objects or prefixes or not response["IsTruncated"]:
                break
            asked["ContinuationToken"] = response["NextContinuationToken"]
        end = _end(objects, prefixes) if response["IsTruncated"] else None
        if query.with_labels:
            objects = list(await self._heads(objects))
        return Page(sorted(objects, key=lambda one: one.key.encode()), sorted(prefixes, key=str.encode), end)

    async def _heads(self, objects: Sequence[Stored]) -> Sequence[Stored]:
        """Returns the objects with the metadata that a listing lacks. Objects deleted in the meantime are omitted."""
        found: list[Stored] = []

        async def look(key: str) -> None:
            stored = await self._head("list", key)
            if stored is not None:
                found.append(stored)

        async with trio.open_nursery() as nursery:
            for one in objects:
                nursery.start_soon(look, one.key)
        return found

    async def begin(self, key: str, labels: Labels) -> str:
        return await self._create("create_multipart_upload", key, labels, About(uuid.uuid4().hex, {}))

    async def upload_part(self, key: str, upload: str, number: int, content: AsyncIterator[bytes]) -> str:
        """The length of a part is sent before its bytes, so the part is collected first: in memory up to PART bytes,
        above that in an unnamed temporary file."""
        digests = Digests()

        def keep(piece: bytes) -> None:
            spool.write(piece)
            digests.update(piece)

        with tempfile.SpooledTemporaryFile(max_size=PART) as spool:
            async for piece in content:
                await self._spooled(partial(keep, piece))
            if not spool.tell():
                await self._be_answered("upload_part")
            await self._spooled(partial(spool.seek, 0))
            etag = await self._send("upload_part", key, upload, number, spool, digests.checked()["md5"])
        return etag.strip('"')

    async def _spooled(self, work: Callable[[], Any]) -> None:
        try:
            await self._store.run("upload_part", work)
        except OSError as error:
            raise BindingError(f"{self._store.where}: upload_part: temporary file: {error.strerror}", 507) from error

    async def complete(self, key: str, upload: str, parts: Sequence[Part]) -> Stored:
        there = await self._parts(key, upload)
        for part in parts:
            if part.number not in there or there[part.number][0] != part.etag:
                raise refused("complete", INVALID_PART, f"part {part.number}")
        sizes = [there[part.number][1] for part in parts]
        check_part_sizes(sizes)
        named = [{"PartNumber": part.number, "ETag": f'"{part.etag}"'} for part in parts]
        response = await self._complete("complete", key, upload, named, {})
        etag = (response.get("ETag") or multipart_etag([part.etag for part in parts])).strip('"')
        stored = await self._head("complete", key)
        if stored is not None and stored.etag == etag:
            return stored
        uploaded = _moment(response)  # another write has replaced the object since
        return Stored(key, version_of(etag, uploaded), sum(sizes), etag, uploaded, Labels(), {})

    async def abort(self, key: str, upload: str) -> None:
        await self._be_answered("abort")
        await self._of_upload("abort", "abort_multipart_upload", key, upload)

    # --- shared steps -----------------------------------------------------------------------------------------------

    async def _be_answered(self, method: str) -> None:
        """Waits for an answer of the store, right before a request that it would carry out at once."""
        await self._store.ask(method, "head_bucket")

    async def _head(self, method: str, key: str) -> Stored | None:
        try:
            response = await self._store.ask(method, "head_object", Key=self._prefix + key)
        except StoreError as error:
            if error.http == 404:
                return None
            raise
        return stored_of(key, response)

    async def _create(self, method: str, key: str, labels: Labels, about: About) -> str:
        with_labels = parameters(method, labels, about)
        await self._be_answered(method)
        response = await self._store.ask(method, "create_multipart_upload", Key=self._prefix + key, **with_labels)
        return str(response["UploadId"])

    async def _send(self, method: str, key: str, upload: str, number: int, body: Any, md5: bytes) -> str:
        """Sends a part. Returns its entity tag, in quotes."""
        sent = {"PartNumber": number, "Body": body, "ContentMD5": content_md5(md5)}
        response = await self._of_upload(method, "upload_part", key, upload, **sent)
        return str(response["ETag"])

    async def _parts(self, key: str, upload: str) -> Mapping[int, tuple[str, int]]:
        """Returns entity tag and size of each part of the upload, by the part's number."""
        found: dict[int, tuple[str, int]] = {}
        marker = 0
        while True:
            response = await self._of_upload("complete", "list_parts", key, upload, PartNumberMarker=marker)
            for part in response.get("Parts", ()):
                found[part["PartNumber"]] = part["ETag"].strip('"'), part["Size"]
            if not response.get("IsTruncated"):
                return found
            marker = response["NextPartNumberMarker"]

    async def _complete(
        self,
        method: str,
        key: str,
        upload: str,
        parts: Sequence[Mapping[str, Any]],
        bound: Mapping[str, str],
    ) -> dict[str, Any]:
        return await self._store.ask(
            method,
            "complete_multipart_upload",
            Key=self._prefix + key,
            UploadId=upload,
            MultipartUpload={"Parts": parts},
            **bound,
        )

    async def _of_upload(
        self, method: str, operation: str, key: str, upload: str, **parameters: Any
    ) -> dict[str, Any]:
        if not UPLOAD.fullmatch(upload):
            raise refused(method, NO_SUCH_UPLOAD)
        try:
            return await self._store.ask(method, operation, Key=self._prefix + key, UploadId=upload, **parameters)
        except StoreError as error:
            if error.http == 404:
                raise refused(method, NO_SUCH_UPLOAD) from None
            raise

    async def _drop(self, key: str, upload: str) -> None:
        """Aborts the upload, even if cancelled. If that fails, the parts are left to the store's lifecycle rules."""
        with trio.CancelScope(shield=True):
            try:
                await self._of_upload("put", "abort_multipart_upload", key, upload)
            except BindingError as error:
                log.warning("could not delete the parts of a failed upload: %s", str(error))  # no frames kept alive

    def _restless(self, method: str) -> BindingError:
        return BindingError(f"{self._store.where}: {method}: others replaced the object during {TURNS} attempts")


def _written(
    key: str, about: About, size: int, etag: str, response: Mapping[str, Any], labels: Labels
) -> Stored:
    return Stored(key, about.version, size, etag.strip('"'), _moment(response), labels, about.checksums)


def _end(objects: Sequence[Stored], prefixes: Sequence[str]) -> Position:
    """Returns the position after the last object or prefix of a page."""
    places = [Position("key", one.key) for one in objects] + [Position("prefix", prefix) for prefix in prefixes]
    return max(places, key=lambda place: place.text.encode())


def _moment(response: Mapping[str, Any]) -> float:
    """Returns the time of an answer by the store's clock, or by ours if the answer has no valid date."""
    try:
        return parsedate_to_datetime(response["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()
    except (KeyError, ValueError):
        return time.time()


def _listed(key: str, entry: Mapping[str, Any]) -> Stored:
    """Returns a listed object. A listing has neither our version nor the checksums; a version is derived instead."""
    etag, uploaded = entry["ETag"].strip('"'), entry["LastModified"].timestamp()
    return Stored(key, version_of(etag, uploaded), entry["Size"], etag, uploaded, Labels(), {})
