"""The limits of R2. Pure.  https://developers.cloudflare.com/r2/platform/limits/"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyinterceptor.bindings.r2.refusals import (
    BAD_UPLOAD,
    ENTITY_TOO_LARGE,
    ENTITY_TOO_SMALL,
    INVALID_ARGUMENT,
    INVALID_MAX_KEYS,
    INVALID_OBJECT_NAME,
    METADATA_TOO_LARGE,
    refused,
)

KEY = 1024  # bytes of UTF-8
METADATA = 8192  # bytes, of the keys and values of HTTP and custom metadata together
LISTED = 1000  # objects and prefixes per page
DELETED = 1000  # keys per call
PART = 5 * 1024 * 1024  # bytes, at least, of each part but the last
PARTS = 10_000
UPLOAD = 5 * 1024**3  # bytes of a put or a part


def check_key(method: str, key: str) -> str:
    """Returns the key. Any text of the right length is valid, including `..`, NUL and line feeds."""
    if not isinstance(key, str):
        raise TypeError(f"{method}: a key must be a str, not {type(key).__name__}")
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        size = 0
    if not 1 <= size <= KEY:
        raise refused(method, INVALID_OBJECT_NAME)
    return key


def check_metadata(method: str, *given: Mapping[str, str]) -> None:
    size = 0
    for mapping in given:
        for name, value in mapping.items():
            if not (isinstance(name, str) and isinstance(value, str)):
                raise TypeError(f"{method}: metadata must map str to str, not {name!r} to {type(value).__name__}")
            try:
                size += len(name.encode()) + len(value.encode())
            except UnicodeEncodeError:
                raise refused(method, INVALID_ARGUMENT, "UTF-8 can't encode the metadata") from None
    if size > METADATA:
        raise refused(method, METADATA_TOO_LARGE)


def check_limit(limit: int) -> None:
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise TypeError(f"list: limit must be an int, not {type(limit).__name__}")
    if not 1 <= limit <= LISTED:
        raise refused("list", INVALID_MAX_KEYS)


def check_upload_size(method: str, size: int) -> None:
    if size > UPLOAD:
        raise refused(method, ENTITY_TOO_LARGE, f"at most {UPLOAD} bytes in one upload")


def check_part_number(method: str, number: int) -> None:
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"{method}: a part's number must be an int, not {type(number).__name__}")
    if not 1 <= number <= PARTS:
        raise refused(method, INVALID_ARGUMENT, f"part number {number} is not 1 to {PARTS}")


def check_part_sizes(sizes: Sequence[int]) -> None:
    """Checks that all parts but the last have the same size, at least PART, and that the last is no larger."""
    *others, last = sizes
    if any(size < PART for size in others):
        raise refused("complete", ENTITY_TOO_SMALL)
    if len(set(others)) > 1 or (others and last > others[0]):
        raise refused("complete", BAD_UPLOAD)
