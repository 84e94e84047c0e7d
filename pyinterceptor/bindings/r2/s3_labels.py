"""An object's metadata in an S3-compatible store: header fields, in ASCII. Pure.

Custom metadata that a header field can carry unchanged is sent as `x-amz-meta-<name>`, as other tools expect.
`x-amz-meta-pyinterceptor` is JSON. It holds the other custom metadata, a version, checksums, the storage class,
and whether the object was stored without a content type, because stores invent one. Objects written by other tools
don't have this field. A store may allow less metadata than R2's 8192 bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from typing import Any, NamedTuple

from pyinterceptor.bindings.r2.engine import STANDARD, STORAGE_CLASSES, Labels, Stored
from pyinterceptor.bindings.r2.metadata import HttpMetadata
from pyinterceptor.bindings.r2.refusals import INVALID_ARGUMENT, refused

ABOUT = "pyinterceptor"
NAME = re.compile(r"[a-z0-9-]{1,64}")  # no underscores: some stores turn them into hyphens
VALUE = re.compile(r"(?!=\?)[!-~]+( [!-~]+)*")  # "=?" begins an encoded word of RFC 2047
FIELD = re.compile(r"[ -~]*")
PARAMETERS = {
    "content-type": "ContentType",
    "content-language": "ContentLanguage",
    "content-disposition": "ContentDisposition",
    "content-encoding": "ContentEncoding",
    "cache-control": "CacheControl",
    "expires": "Expires",
}


class About(NamedTuple):
    """Properties of an object for which S3 has no field."""

    version: str
    checksums: Mapping[str, bytes]


def parameters(method: str, labels: Labels, about: About) -> dict[str, Any]:
    """Returns the metadata as parameters of a botocore call. Raises BadArgument if HTTP metadata isn't ASCII."""
    fields = labels.http.fields()
    for name, value in fields.items():
        if not FIELD.fullmatch(value):
            raise refused(method, INVALID_ARGUMENT, f"an S3 store can keep {name} in ASCII only")
    plain = {name: value for name, value in labels.custom.items() if _is_plain(name, value)}
    told = {
        "version": about.version,
        "checksums": {name: digest.hex() for name, digest in about.checksums.items()},
        "custom": {name: value for name, value in labels.custom.items() if name not in plain},
        "untyped": "content-type" not in fields,
        "storage_class": "" if labels.storage_class == STANDARD else labels.storage_class,
    }
    text = json.dumps({name: value for name, value in told.items() if value}, separators=(",", ":"))
    metadata = plain | {ABOUT: text.replace("\x7f", r"\u007f")}
    return {PARAMETERS[name]: value for name, value in fields.items()} | {"Metadata": metadata}


def stored_of(key: str, response: Mapping[str, Any]) -> Stored:
    """Returns the object that the answer to a HEAD, or to a GET without a range, describes."""
    custom = {name.lower(): _decoded(value) for name, value in response["Metadata"].items()}
    told = _told(custom.pop(ABOUT, ""))
    fields = dict(response["ResponseMetadata"]["HTTPHeaders"])
    if told.get("untyped"):
        fields.pop("content-type", None)
    etag, uploaded = response["ETag"].strip('"'), response["LastModified"].timestamp()
    return Stored(
        key,
        told.get("version") or version_of(etag, uploaded),
        response["ContentLength"],
        etag,
        uploaded,
        Labels(HttpMetadata.of_fields(fields), custom | told.get("custom", {}), told.get("storage_class", STANDARD)),
        {name: bytes.fromhex(digest) for name, digest in told.get("checksums", {}).items()},
    )


def version_of(etag: str, uploaded: float) -> str:
    """Returns a version for an object that has none in its metadata."""
    return f"{etag}-{int(uploaded)}"


def _is_plain(name: str, value: str) -> bool:
    return name != ABOUT and bool(NAME.fullmatch(name) and VALUE.fullmatch(value))


def _decoded(value: str) -> str:
    """Decodes encoded words of RFC 2047, in which R2 itself and some tools write text that isn't ASCII."""
    if not value.startswith("=?"):
        return value
    try:
        return str(make_header(decode_header(value)))
    except (HeaderParseError, LookupError, ValueError):
        return value


def _told(text: str) -> dict[str, Any]:
    """Parses the field ABOUT. Returns an empty dict if the field is missing or doesn't have our format."""
    try:
        told = json.loads(text)
        valid = (
            isinstance(told, dict)
            and isinstance(told.get("version", ""), str)
            and told.get("storage_class", STANDARD) in STORAGE_CLASSES
            and all(isinstance(value, str) for value in told.get("custom", {}).values())
            and all(bytes.fromhex(digest) for digest in told.get("checksums", {}).values())
        )
    except (ValueError, TypeError, AttributeError):
        return {}
    return told if valid else {}
