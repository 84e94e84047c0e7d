"""The errors with which R2 refuses a call: codes, HTTP statuses and messages. Pure.

https://developers.cloudflare.com/r2/api/error-codes/
"""

from __future__ import annotations

from typing import NamedTuple

from pyinterceptor.errors import BadArgument


class Refusal(NamedTuple):
    code: int
    status: int
    said: str


ENTITY_TOO_SMALL = Refusal(10011, 400, "a part that is not the last is smaller than 5 MiB")
METADATA_TOO_LARGE = Refusal(10012, 400, "the metadata is larger than 8192 bytes")
INVALID_OBJECT_NAME = Refusal(10020, 400, "the key must be 1 to 1024 bytes of UTF-8")
INVALID_MAX_KEYS = Refusal(10022, 400, "the limit must be 1 to 1000")
NO_SUCH_UPLOAD = Refusal(10024, 404, "no such multipart upload")
INVALID_PART = Refusal(10025, 400, "a part is missing or differs")
INVALID_ARGUMENT = Refusal(10029, 400, "invalid argument")
BAD_DIGEST = Refusal(10037, 400, "the content has another checksum")
INVALID_RANGE = Refusal(10039, 416, "the range is outside the object")
BAD_UPLOAD = Refusal(10048, 400, "the parts before the last differ in size")
ENTITY_TOO_LARGE = Refusal(100100, 413, "the object is larger than R2 allows")


def refused(method: str, refusal: Refusal, more: str = "") -> BadArgument:
    """Returns the error for the caller to raise."""
    return BadArgument(f"{method}: {refusal.said}{more and f': {more}'} ({refusal.code})", refusal.status)
