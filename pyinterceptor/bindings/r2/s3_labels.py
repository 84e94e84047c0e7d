"""An object's labels in S3's terms: fields as they are, custom metadata where S3 can say it, and the rest in one entry.

S3's metadata are header fields: names without case, values of printable ASCII. What isn't so, and what only R2 has (a
version for each upload, the checksum that was given), is JSON in the entry `pyinterceptor`.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pyinterceptor.bindings.r2.engine import Labels, Stored
from pyinterceptor.bindings.r2.metadata import HttpMetadata

OWN = "pyinterceptor"
PLAIN_NAME, PLAIN_VALUE = re.compile(r"[a-z0-9-]+"), re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
MD5 = re.compile(r"[0-9a-f]{32}")
OPTIONS = {
    "content-type": "ContentType",
    "content-language": "ContentLanguage",
    "content-disposition": "ContentDisposition",
    "content-encoding": "ContentEncoding",
    "cache-control": "CacheControl",
    "expires": "Expires",
}


def label_options(method: str, labels: Labels, checksum: tuple[str, bytes] | None) -> tuple[dict[str, Any], str]:
    """Of a request that makes an object, and the version that it gets."""
    options: dict[str, Any] = {OPTIONS[name]: value for name, value in labels.http.fields().items()}
    plain = {name: value for name, value in labels.custom.items() if _is_plain(name, value)}
    own: dict[str, Any] = {"version": secrets.token_hex(16)}
    if rest := {name: value for name, value in labels.custom.items() if name not in plain}:
        own["custom"] = rest
    if checksum is not None:
        own["checksum"] = [checksum[0], checksum[1].hex()]
    options["Metadata"] = plain | {OWN: base64.b64encode(json.dumps(own).encode()).decode()}
    return options, own["version"]


def stored_of(key: str, answer: Mapping[str, Any]) -> Stored:
    """From what the store says of an object, with its labels or, in a listing, without."""
    metadata = {name.lower(): value for name, value in answer.get("Metadata", {}).items()}
    own = _own(metadata.pop(OWN, ""))
    fields = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    etag = answer["ETag"].strip('"')
    checksums = {"md5": bytes.fromhex(etag)} if MD5.fullmatch(etag) else {}
    if "checksum" in own:
        name, digest = own["checksum"]
        checksums[name] = bytes.fromhex(digest)
    modified: datetime = answer["LastModified"]
    version = answer.get("VersionId")
    return Stored(
        key,
        str(version if version not in (None, "null") else own.get("version", etag)),
        _size(answer),
        etag,
        modified.timestamp(),
        Labels(HttpMetadata.of_fields(fields), metadata | own.get("custom", {})),
        checksums,
    )


def _size(answer: Mapping[str, Any]) -> int:
    """Of all of it, whatever range was asked for."""
    if "ContentRange" in answer:
        return int(answer["ContentRange"].rpartition("/")[2])
    return int(answer["Size"] if "Size" in answer else answer["ContentLength"])


def _is_plain(name: str, value: str) -> bool:
    return bool(PLAIN_NAME.fullmatch(name) and name != OWN and PLAIN_VALUE.fullmatch(value))


def _own(text: str) -> dict[str, Any]:
    """Nothing where another program made the object."""
    try:
        own = json.loads(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        return {}
    return own if isinstance(own, dict) else {}
