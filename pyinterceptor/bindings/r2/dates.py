"""Dates as HTTP fields have them. Pure.  RFC 9110 section 5.6.7."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def date_of(text: str | None) -> datetime | None:
    """The moment, in UTC; None for what is no date, or none that a datetime can be: it is as if it weren't there."""
    try:
        date = None if text is None else parsedate_to_datetime(text)
        return date if date is None else (date if date.tzinfo else date.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
