"""How R2 says no: its codes and sentences, with the HTTP status of each. Pure.

https://developers.cloudflare.com/r2/api/error-codes/
"""

from __future__ import annotations

from typing import NamedTuple

from pyinterceptor.errors import BadArgument


class Refusal(NamedTuple):
    code: int
    status: int
    said: str


ENTITY_TOO_SMALL = Refusal(10011, 400, "a part but the last is smaller than 5 MiB")
METADATA_TOO_LARGE = Refusal(10012, 400, "the metadata is larger than 8192 bytes")
INVALID_OBJECT_NAME = Refusal(10020, 400, "the key is not 1 to 1024 bytes of UTF-8")
INVALID_MAX_KEYS = Refusal(10022, 400, "the limit is not 1 to 1000")
NO_SUCH_UPLOAD = Refusal(10024, 404, "there is no such multipart upload")
INVALID_PART = Refusal(10025, 400, "a part is not there as it is named")
INVALID_ARGUMENT = Refusal(10029, 400, "an argument is wrong")
BAD_DIGEST = Refusal(10037, 400, "the checksum is not that of what came")
INVALID_RANGE = Refusal(10039, 416, "the range is not in the object")
BAD_UPLOAD = Refusal(10048, 400, "the parts but the last are not of one size")
ENTITY_TOO_LARGE = Refusal(100100, 413, "it is larger than R2 allows")


def refused(method: str, refusal: Refusal, more: str = "") -> BadArgument:
    """The error to raise."""
    return BadArgument(f"{method}: {refusal.said}{more and f': {more}'} ({refusal.code})", refusal.status)
