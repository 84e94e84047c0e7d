"""The limits of Workers KV, and the errors for exceeding them. Pure.

https://developers.cloudflare.com/kv/platform/limits/. Statuses and messages are those of the Workers runtime.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from pyinterceptor.errors import BadArgument

KEY = 512  # bytes of UTF-8
VALUE = 25 * 1024 * 1024  # bytes
METADATA = 1024  # bytes of JSON
TTL = 60  # seconds, at least
CACHE_TTL = 30  # seconds, at least
LISTED = 1000  # keys per page
TOGETHER = 100  # keys per get
UNREAL = (".", "..")


def key_bytes(key: str) -> bytes:
    """Returns the key in UTF-8. Raises BadArgument or TypeError if it is no valid key."""
    if key == "":
        raise BadArgument("Key name cannot be empty.")
    if key in UNREAL:
        raise BadArgument(f'"{key}" is not allowed as a key name.')
    return _limited(key, "key")


def prefix_bytes(prefix: str) -> bytes:
    return _limited(prefix, "prefix")


def _limited(text: str, what: str) -> bytes:
    if not isinstance(text, str):
        raise TypeError(f"a {what} must be a str, not {type(text).__name__}")
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        raise BadArgument(f"A {what} must be Unicode text that UTF-8 can encode.") from None
    if len(encoded) > KEY:
        raise BadArgument(f"UTF-8 encoded length of {len(encoded)} exceeds key length limit of {KEY}.", 414)
    return encoded


def check_value(size: int) -> None:
    if size > VALUE:
        raise BadArgument(f"Value length of {size} exceeds limit of {VALUE}.", 413)


def check_values(size: int) -> None:
    """Checks the total size of the values that one get returns."""
    if size > VALUE:
        raise BadArgument(f"The values together exceed {VALUE} bytes; ask for fewer keys.", 413)


def metadata_bytes(metadata: Any) -> bytes | None:
    """Returns the metadata as JSON. Raises BadArgument, or TypeError if JSON can't represent it."""
    if metadata is None:
        return None
    try:
        encoded = json.dumps(metadata, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except ValueError as error:
        raise BadArgument(f"Metadata can't be JSON: {error}") from error
    if len(encoded) > METADATA:
        raise BadArgument(f"Metadata length of {len(encoded)} exceeds limit of {METADATA}.", 413)
    return encoded


def expiration_of(expiration: float | None, ttl: float | None, now: float) -> int | None:
    """Returns the expiration in seconds since 1970; None if the entry doesn't expire.

    If both are given, `ttl` takes precedence, as in Workers. Raises BadArgument or TypeError.
    """
    if ttl is not None:
        seconds = _whole(ttl, "expiration_ttl")
        if seconds <= 0:
            raise BadArgument(f"Invalid expiration_ttl of {ttl}. Please specify integer greater than 0.")
        if seconds < TTL:
            raise BadArgument(f"Invalid expiration_ttl of {ttl}. Expiration TTL must be at least {TTL}.")
        return _stored(int(now) + seconds, "expiration_ttl", ttl)
    if expiration is None:
        return None
    moment = _whole(expiration, "expiration")
    if moment <= now:
        what = "Please specify integer greater than the current number of seconds since the UNIX epoch."
        raise BadArgument(f"Invalid expiration of {expiration}. {what}")
    if moment < int(now) + TTL:
        raise BadArgument(
            f"Invalid expiration of {expiration}. Expiration times must be at least {TTL} seconds in the future."
        )
    return _stored(moment, "expiration", expiration)


def _whole(number: float, what: str) -> int:
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise TypeError(f"{what} must be a number of seconds, not {type(number).__name__}")
    if number != number or number in (float("inf"), float("-inf")):
        raise BadArgument(f"Invalid {what} of {number}. Please specify integer greater than 0.")
    return int(number)


def _stored(moment: int, what: str, given: float) -> int:
    if moment >= 1 << 53:  # JavaScript numbers are exact up to here
        raise BadArgument(f"Invalid {what} of {given}. It is too far in the future.")
    return moment


def check_cache_ttl(ttl: float | None) -> None:
    if ttl is not None and _whole(ttl, "cache_ttl") < CACHE_TTL:
        raise BadArgument(f"Invalid cache_ttl of {ttl}. Cache TTL must be at least {CACHE_TTL}.")


def limit_of(limit: int | None) -> int:
    """Returns the number of keys of a page: LISTED if `limit` is None or not positive, as in Workers."""
    if limit is None:
        return LISTED
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise TypeError(f"limit must be an int, not {type(limit).__name__}")
    if limit > LISTED:
        raise BadArgument(f"Invalid key_count_limit of {limit}. Please specify an integer less than {LISTED}.")
    return limit if limit > 0 else LISTED


def merged(options: Mapping[str, Any] | None, named: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of a call, given as a dict of options or by name. Raises BadArgument or TypeError."""
    if options is None:
        return dict(named)
    if not isinstance(options, Mapping):
        raise TypeError(f"options must be a dict, not {type(options).__name__}")
    for name in options:
        if name not in named:
            raise BadArgument(f"Unknown option {name!r}. Possible options are {', '.join(named)}.")
        if named[name] is not None:
            raise TypeError(f"{name} is given twice: by name and in the options")
    return {**named, **options}


def cursor_after(key: bytes) -> str:
    """Returns the cursor of the page that begins after `key`."""
    return base64.urlsafe_b64encode(key).decode().rstrip("=")


def after_cursor(cursor: str, prefix: bytes) -> bytes:
    """Returns the last key of the page before. Raises BadArgument if `cursor` belongs to no listing of this prefix."""
    if not isinstance(cursor, str):
        raise TypeError(f"a cursor must be a str, not {type(cursor).__name__}")
    try:
        key = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        key.decode()
    except (binascii.Error, ValueError):
        key = b""
    if not key or len(key) > KEY or not key.startswith(prefix) or cursor_after(key) != cursor:
        raise BadArgument("Invalid cursor. Please specify one that list returned for the same prefix.")
    return key
