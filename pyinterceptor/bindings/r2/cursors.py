"""Cursors of listings: opaque text with a checksum, by which a cursor that we didn't issue is refused. Pure."""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import Literal

from pyinterceptor.bindings.r2.engine import Position
from pyinterceptor.bindings.r2.refusals import INVALID_ARGUMENT, refused

KINDS: dict[str, Literal["key", "prefix"]] = {"k": "key", "p": "prefix"}


def cursor_of(position: Position, prefix: str) -> str:
    text = f"{position.kind[0]}{_mark(position.text, prefix)}{position.text}"
    return base64.urlsafe_b64encode(text.encode()).decode()


def position_of(cursor: str, prefix: str) -> Position:
    """Returns the position that `cursor` stands for. Raises BadArgument if no listing of this prefix issued it."""
    if not isinstance(cursor, str):
        raise TypeError(f"list: a cursor must be a str, not {type(cursor).__name__}")
    try:
        text = base64.b64decode(cursor, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        text = ""
    kind, mark, where = text[:1], text[1:9], text[9:]
    if kind not in KINDS or not where or mark != _mark(where, prefix):
        raise refused("list", INVALID_ARGUMENT, "no listing of this prefix issued the cursor")
    return Position(KINDS[kind], where)


def _mark(text: str, prefix: str) -> str:
    """Returns a checksum that ties a cursor to the prefix of its listing."""
    return f"{zlib.crc32(text.encode(), zlib.crc32(prefix.encode())):08x}"
