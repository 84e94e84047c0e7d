"""R2HTTPMetadata: the header fields that an object is served with. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

from pyinterceptor.bindings.r2.dates import date_of
from pyinterceptor.bindings.r2.refusals import INVALID_ARGUMENT, refused
from pyinterceptor.web import Headers

FIELDS = {
    "content_type": "content-type",
    "content_language": "content-language",
    "content_disposition": "content-disposition",
    "content_encoding": "content-encoding",
    "cache_control": "cache-control",
    "cache_expiry": "expires",
}


@dataclass(frozen=True, slots=True)
class HttpMetadata:
    content_type: str | None = None
    content_language: str | None = None
    content_disposition: str | None = None
    content_encoding: str | None = None
    cache_control: str | None = None
    cache_expiry: datetime | None = None

    def fields(self) -> dict[str, str]:
        """Returns the metadata as header fields."""
        values = {header: getattr(self, name) for name, header in FIELDS.items()}
        if self.cache_expiry is not None:
            values["expires"] = format_datetime(self.cache_expiry.astimezone(UTC), usegmt=True)
        return {header: value for header, value in values.items() if value is not None}

    @classmethod
    def of_fields(cls, given: Mapping[str, str] | Headers) -> HttpMetadata:
        """Returns the metadata in these header fields. An `expires` that is no valid date is ignored."""
        values: dict[str, Any] = {name: given.get(header) for name, header in FIELDS.items()}
        return cls(**values | {"cache_expiry": date_of(values["cache_expiry"])})


def http_metadata_of(method: str, given: HttpMetadata | Mapping[str, Any] | Headers | None) -> HttpMetadata:
    """Returns the metadata that was given to `method`. Raises BadArgument or TypeError if it is invalid."""
    if given is None:
        return HttpMetadata()
    if isinstance(given, Headers):
        return HttpMetadata.of_fields(given)
    if isinstance(given, Mapping):
        known = {field.name for field in fields(HttpMetadata)}
        if unknown := set(given) - known:
            more = f"http_metadata has no {unknown.pop()!r}, only {', '.join(sorted(known))}"
            raise refused(method, INVALID_ARGUMENT, more)
        given = HttpMetadata(**given)
    if not isinstance(given, HttpMetadata):
        raise TypeError(f"{method}: http_metadata must be HttpMetadata, a dict or Headers, not {type(given).__name__}")
    for name in FIELDS:
        value, kind = getattr(given, name), datetime if name == "cache_expiry" else str
        if not (value is None or isinstance(value, kind)):
            raise TypeError(f"{method}: {name} must be a {kind.__name__}, not {type(value).__name__}")
    try:
        Headers(given.fields())
    except (ValueError, OverflowError) as error:
        raise refused(method, INVALID_ARGUMENT, str(error)) from error
    return given
