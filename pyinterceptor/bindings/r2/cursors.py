"""Where a listing goes on: opaque to its user, and told from one that we never gave. Pure."""

from __future__ import annotations

import base64
import binascii

from pyinterceptor.bindings.r2.limits import KEY
from pyinterceptor.bindings.r2.refusals import INVALID_ARGUMENT, refused

AFTER_KEY, AFTER_PREFIX = b"k", b"p"


def cursor_after(last: str, *, is_prefix: bool) -> str:
    return base64.urlsafe_b64encode((AFTER_PREFIX if is_prefix else AFTER_KEY) + last.encode()).decode()


def after_cursor(cursor: str, prefix: str) -> tuple[str, bool]:
    """The key or delimited prefix that a page ended with, and which of them it is.

    Raises: BadArgument where it isn't of a listing of this prefix.
    """
    if not isinstance(cursor, str):
        raise TypeError(f"list: a cursor is a str, not {type(cursor).__name__}")
    try:
        decoded = base64.b64decode(cursor, altchars=b"-_", validate=True)
        last = decoded[1:].decode()
    except (binascii.Error, ValueError):
        decoded, last = b"", ""
    kind = decoded[:1]
    if kind not in (AFTER_KEY, AFTER_PREFIX) or not last.startswith(prefix) or not last or len(decoded) > KEY + 1:
        raise refused("list", INVALID_ARGUMENT, "the cursor is none of a listing of this prefix")
    return last, kind == AFTER_PREFIX
