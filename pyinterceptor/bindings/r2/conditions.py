"""Conditional requests: R2Conditional, or the conditional header fields of a request. Pure.

https://developers.cloudflare.com/r2/api/workers/workers-api-reference/#conditional-operations; RFC 9110 section 13.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from pyinterceptor.bindings.r2.dates import date_of
from pyinterceptor.bindings.r2.refusals import INVALID_ARGUMENT, refused
from pyinterceptor.web import Headers

ETAG = re.compile(r'(?:W/)?"[^"]*"|\*|[^\s,"]+')


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on an object; all parts that are given must hold.

    Entity tags are written with or without quotes, several separated by commas, or as `*`. As in RFC 9110 section
    13.2.2, a date is ignored if an entity tag of its kind is given and holds: `etag_matches` overrides
    `uploaded_before`, and `etag_does_not_match` overrides `uploaded_after`.
    """

    etag_matches: str | None = None
    etag_does_not_match: str | None = None
    uploaded_before: datetime | None = None
    uploaded_after: datetime | None = None
    seconds_granularity: bool = False  # compare dates in whole seconds, as HTTP writes them

    def is_met(self, etag: str | None, uploaded: float) -> bool:
        """Whether an object meets it that has this entity tag and was uploaded at that time (seconds since 1970).

        `etag` is None if there is no object.
        """
        if etag is None:
            return self.etag_matches is None and self.uploaded_after is None
        matches = self.etag_matches is None or _names(self.etag_matches, etag, is_weak=False)
        differs = self.etag_does_not_match is None or not _names(self.etag_does_not_match, etag, is_weak=True)
        modified = (self.etag_does_not_match is not None and differs) or self._is_after(uploaded)
        unmodified = (self.etag_matches is not None and matches) or self._is_before(uploaded)
        return matches and differs and modified and unmodified

    def _is_after(self, uploaded: float) -> bool:
        if self.uploaded_after is None:
            return True
        after = self.uploaded_after.timestamp()
        return int(uploaded) > int(after) if self.seconds_granularity else uploaded > after

    def _is_before(self, uploaded: float) -> bool:
        if self.uploaded_before is None:
            return True
        before = self.uploaded_before.timestamp()
        return int(uploaded) <= int(before) if self.seconds_granularity else uploaded < before


Conditional = Condition | Mapping[str, Any] | Headers | None


def condition_of(method: str, given: Conditional) -> Condition | None:
    """Returns the condition; None if it is empty. Raises BadArgument or TypeError."""
    if given is None:
        return None
    if isinstance(given, Headers):
        condition = _of_headers(given)
    elif isinstance(given, Condition):
        condition = given
    elif isinstance(given, Mapping):
        known = {field.name for field in fields(Condition)}
        if unknown := set(given) - known:
            names = ", ".join(sorted(known))
            raise refused(method, INVALID_ARGUMENT, f"only_if has no {unknown.pop()!r}, only {names}")
        condition = Condition(**given)
    else:
        raise TypeError(f"{method}: only_if must be a Condition, a dict or Headers, not {type(given).__name__}")
    _check(method, condition)
    return None if condition == Condition(seconds_granularity=condition.seconds_granularity) else condition


def _of_headers(headers: Headers) -> Condition:
    return Condition(
        etag_matches=headers.get("if-match"),
        etag_does_not_match=headers.get("if-none-match"),
        uploaded_before=date_of(headers.get("if-unmodified-since")),
        uploaded_after=date_of(headers.get("if-modified-since")),
        seconds_granularity=True,
    )


def _check(method: str, condition: Condition) -> None:
    for tags in (condition.etag_matches, condition.etag_does_not_match):
        if not (tags is None or isinstance(tags, str)):
            raise TypeError(f"{method}: an entity tag must be a str, not {type(tags).__name__}")
    for date in (condition.uploaded_before, condition.uploaded_after):
        if date is None:
            continue
        if not isinstance(date, datetime):
            raise TypeError(f"{method}: only_if's dates must be datetimes, not {type(date).__name__}")
        if date.tzinfo is None:
            raise refused(method, INVALID_ARGUMENT, "only_if's dates must have a timezone")


def _names(tags: str, etag: str, *, is_weak: bool) -> bool:
    """Whether one of these entity tags is the object's. A weak tag matches only in a weak comparison."""
    for tag in ETAG.findall(tags):
        if tag == "*" or tag.strip('"') == etag or (is_weak and tag.removeprefix("W/").strip('"') == etag):
            return True
    return False
