"""Dates of HTTP header fields. Pure.  RFC 9110 section 5.6.7."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def date_of(text: str | None) -> datetime | None:
    """Returns the date in UTC. None, so that the field is ignored, if it is invalid or outside a datetime's range."""
    try:
        date = None if text is None else parsedate_to_datetime(text)
        return date if date is None else (date if date.tzinfo else date.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
