"""Byte ranges of an object: R2Range, or the Range field of a request. Pure.  RFC 9110 section 14."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyinterceptor.bindings.r2.refusals import INVALID_ARGUMENT, INVALID_RANGE, refused
from pyinterceptor.web import Headers

ONE = re.compile(r"\s*bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Range:
    """A range of bytes: `length` bytes from `offset` on, or the last `suffix` bytes."""

    offset: int | None = None
    length: int | None = None
    suffix: int | None = None

    def within(self, size: int) -> tuple[int, int]:
        """Returns offset and length of the range in an object of `size` bytes, cut off at the object's end.

        Raises BadArgument (416) if the range contains no byte of the object.
        """
        if self.suffix is not None:
            offset, length = max(0, size - self.suffix), min(size, self.suffix)
        else:
            offset = self.offset or 0
            length = size - offset if self.length is None else min(self.length, size - offset)
        if length <= 0:
            raise refused("get", INVALID_RANGE)
        return offset, length


Ranged = Range | Mapping[str, int] | Headers | None


def range_of(given: Ranged) -> Range | None:
    """Returns the range that was given; None stands for the whole object. Raises BadArgument or TypeError."""
    if given is None:
        return None
    if isinstance(given, Headers):
        return _of_header(given.get("range"))
    if isinstance(given, Mapping):
        if unknown := set(given) - {"offset", "length", "suffix"}:
            raise refused("get", INVALID_ARGUMENT, f"range has no {unknown.pop()!r}, only offset, length, suffix")
        given = Range(**given)
    if not isinstance(given, Range):
        raise TypeError(f"get: range must be a Range, a dict or Headers, not {type(given).__name__}")
    for value in (given.offset, given.length, given.suffix):
        if not (value is None or _is_count(value)):
            raise TypeError(f"get: offset, length and suffix must be int, not {value!r}")
        if value is not None and value < 0:
            raise refused("get", INVALID_RANGE)
    if given.suffix is not None and (given.offset is not None or given.length is not None):
        raise refused("get", INVALID_ARGUMENT, "a range must have either offset and length, or suffix")
    if given == Range():
        raise refused("get", INVALID_ARGUMENT, "a range must have offset, length or suffix")
    return given


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _of_header(field: str | None) -> Range | None:
    """Returns the range in a Range field. None, so that the field is ignored, if it is invalid or asks for several
    ranges (RFC 9110 section 14.2 allows ignoring it)."""
    found = None if field is None else ONE.fullmatch(field)
    if found is None or found[1] == found[2] == "":
        return None
    if found[1] == "":
        return Range(suffix=int(found[2]))
    first = int(found[1])
    if found[2] == "":
        return Range(offset=first)
    last = int(found[2])
    return None if last < first else Range(offset=first, length=last - first + 1)
