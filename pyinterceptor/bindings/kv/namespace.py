"""The KV namespace that handlers use as `env.KV`: the methods of Workers KV, in snake_case."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal, overload

from pyinterceptor.bindings.kv import limits
from pyinterceptor.bindings.kv.engine import Engine, Entry
from pyinterceptor.errors import BadArgument
from pyinterceptor.web import Body

Type = Literal["text", "json", "bytes", "stream"]
Options = Mapping[str, Any]
Keys = list[str] | tuple[str, ...]
Given = str | bytes | bytearray | memoryview | AsyncIterable[bytes | str] | Body

READ: dict[str, Callable[[bytes], Any]] = {
    "text": lambda value: value.decode("utf-8", "replace"),
    "json": json.loads,
    "bytes": lambda value: value,
    "stream": Body,
}


@dataclass(frozen=True, slots=True)
class ValueWithMetadata:
    """A value and its metadata. Both are None if the key is missing; `metadata` is None if the entry has none.

    `cache_status` is None, since no cache is between.
    """

    value: Any
    metadata: Any
    cache_status: str | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """A listed key. `expiration` is in seconds since 1970; None if the entry doesn't expire."""

    name: str
    expiration: int | None
    metadata: Any


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of keys. `cursor` requests the next page; None if `list_complete`. `cache_status` is None."""

    keys: list[Key]
    list_complete: bool
    cursor: str | None
    cache_status: str | None = None


class Namespace:
    """A namespace of keys and values, made by `KV.open`. https://developers.cloudflare.com/kv/api/

    Every method raises BadArgument, with the status of Workers KV (400, 413 or 414), if Workers KV would refuse the
    call. It raises BindingError, with 503, 504 or 507, if the engine failed; nothing has changed then. Options may be
    given by name or, as in Workers, in a dict.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @overload
    async def get(self, key: str, type: Type | Options | None = None, *, cache_ttl: float | None = None) -> Any: ...
    @overload
    async def get(
        self, key: Keys, type: Type | Options | None = None, *, cache_ttl: float | None = None
    ) -> dict[str, Any]: ...
    async def get(self, key: str | Keys, type: Type | Options | None = None, *, cache_ttl: float | None = None) -> Any:
        """Returns the value as a str ("text"), parsed ("json"), as bytes, or as a Body ("stream").

        None if the key is missing. Given a list of at most 100 keys, returns a dict of their values, as "text" or
        "json". Raises ValueError if a value requested as "json" is not valid JSON, and BadArgument if it is one of
        several. `type` may be a dict with `type` and `cache_ttl`. `cache_ttl`, at least 30 seconds, has no effect,
        since every value is read from the store.
        """
        read = _reading(key, type, cache_ttl)
        found = await self._entries(key)
        if isinstance(key, str):
            return None if found[0] is None else read(found[0].value)
        return {name: None if one is None else read(one.value) for name, one in zip(key, found, strict=True)}

    @overload
    async def get_with_metadata(
        self, key: str, type: Type | Options | None = None, *, cache_ttl: float | None = None
    ) -> ValueWithMetadata: ...
    @overload
    async def get_with_metadata(
        self, key: Keys, type: Type | Options | None = None, *, cache_ttl: float | None = None
    ) -> dict[str, ValueWithMetadata]: ...
    async def get_with_metadata(
        self, key: str | Keys, type: Type | Options | None = None, *, cache_ttl: float | None = None
    ) -> Any:
        """Does the same as `get`, and returns the metadata as well."""
        read = _reading(key, type, cache_ttl)
        found = [_with_metadata(entry, read) for entry in await self._entries(key)]
        return found[0] if isinstance(key, str) else dict(zip(key, found, strict=True))

    async def put(
        self,
        key: str,
        value: Given,
        options: Options | None = None,
        *,
        expiration: float | None = None,
        expiration_ttl: float | None = None,
        metadata: Any = None,
    ) -> None:
        """Stores a value of at most 25 MiB under `key`, in place of the old entry.

        The entry expires at `expiration` (seconds since 1970) or after `expiration_ttl` seconds; both must be at least
        60 seconds ahead. `metadata` is any value whose JSON has at most 1024 bytes.
        """
        named = {"expiration": expiration, "expiration_ttl": expiration_ttl, "metadata": metadata}
        given = limits.merged(options, named)
        encoded = limits.key_bytes(key)
        until = limits.expiration_of(given["expiration"], given["expiration_ttl"], time.time())
        said = limits.metadata_bytes(given["metadata"])
        await self._engine.put(encoded, await _whole(value), said, until)

    async def delete(self, key: str) -> None:
        """Deletes the entry of `key`. A missing one is no error."""
        await self._engine.delete(limits.key_bytes(key))

    async def list(
        self,
        options: Options | None = None,
        *,
        prefix: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Listing:
        """Returns up to `limit` keys that begin with `prefix`, in the order of their UTF-8 bytes.

        The page begins behind `cursor`, or at the first key if it is None or "". `limit` is 1000 by default, and if it
        is not positive.
        """
        given = limits.merged(options, {"prefix": prefix, "limit": limit, "cursor": cursor})
        begin = limits.prefix_bytes("" if given["prefix"] is None else given["prefix"])
        most = limits.limit_of(given["limit"])
        after = b"" if given["cursor"] in (None, "") else limits.after_cursor(given["cursor"], begin)
        found = await self._engine.list(begin, after, most + 1)
        keys = [Key(one.key.decode(), one.expiration, _metadata(one.metadata)) for one in found[:most]]
        is_complete = len(found) <= most
        return Listing(keys, is_complete, None if is_complete else limits.cursor_after(found[most - 1].key))

    async def _entries(self, key: str | Keys) -> Sequence[Entry | None]:
        if isinstance(key, str):
            return await self._engine.get([limits.key_bytes(key)])
        if not isinstance(key, Collection):
            raise TypeError(f"a key must be a str, or a list of them, not {type(key).__name__}")
        if len(key) > limits.TOGETHER:
            raise BadArgument(f"You can request a maximum of {limits.TOGETHER} keys.")
        found = await self._engine.get([limits.key_bytes(one) for one in key]) if key else []
        limits.check_values(sum(len(one.value) for one in found if one is not None))
        return found


def _reading(key: str | Keys, type: str | Options | None, cache_ttl: float | None) -> Callable[[bytes], Any]:
    """Returns the function that reads a value as the requested type. Raises BadArgument or TypeError."""
    options = type if isinstance(type, Mapping) else {"type": type}
    given = limits.merged(options, {"type": None, "cache_ttl": cache_ttl})
    limits.check_cache_ttl(given["cache_ttl"])
    name = "text" if given["type"] is None else given["type"]
    if not isinstance(name, str) or name not in READ:
        raise BadArgument(f"Unknown type {name!r}. Possible types are {', '.join(map(repr, READ))}.")
    if isinstance(key, str):
        return READ[name]
    if name not in TOGETHER:
        raise BadArgument(f'"{name}" is not a valid type for several keys. Use "json" or "text".')
    return TOGETHER[name]


def _one_of_several(value: bytes) -> Any:
    try:
        return json.loads(value)
    except ValueError as error:
        raise BadArgument("At least one of the requested keys corresponds to a non-JSON value.") from error


TOGETHER: dict[str, Callable[[bytes], Any]] = {"text": READ["text"], "json": _one_of_several}


def _with_metadata(entry: Entry | None, read: Callable[[bytes], Any]) -> ValueWithMetadata:
    if entry is None:
        return ValueWithMetadata(None, None)
    return ValueWithMetadata(read(entry.value), _metadata(entry.metadata))


def _metadata(encoded: bytes | None) -> Any:
    return None if encoded is None else json.loads(encoded)


async def _whole(value: Given) -> bytes:
    """Returns the whole value. Takes a stream, and stops reading it at the size limit."""
    async with aclosing(value if isinstance(value, Body) else Body(_some(value))) as body:
        limits.check_value(body.length or 0)
        if body.content is not None:
            return await body.bytes()
        whole = BytesIO()  # not a list: each part of a few bytes would cost an object many times its size
        async for part in body:
            whole.write(part)
            limits.check_value(whole.tell())
        return whole.getvalue()


def _some(value: Given) -> Given:
    if value is None:
        raise TypeError("a value must be str, bytes or an async iterable of them, not None; delete removes a key")
    return value
