"""Checksums of uploaded content: the expected one, and those computed from the bytes. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from pyinterceptor.bindings.r2.refusals import BAD_DIGEST, INVALID_ARGUMENT, refused

SIZES = {"md5": 16, "sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}  # bytes


def expected(given: Mapping[str, bytes | str | None]) -> tuple[str, bytes] | None:
    """Returns the name and bytes of the one checksum that was given, as bytes or in hexadecimal; None if none was.

    Raises BadArgument or TypeError.
    """
    some = {name: value for name, value in given.items() if value is not None}
    if len(some) > 1:
        raise refused("put", INVALID_ARGUMENT, f"only one checksum may be given, not {' and '.join(some)}")
    for name, value in some.items():
        if not isinstance(value, str | bytes | bytearray | memoryview):
            raise TypeError(f"put: {name} must be bytes or hexadecimal text, not {type(value).__name__}")
        try:
            digest = bytes.fromhex(value) if isinstance(value, str) else bytes(value)
        except ValueError:
            digest = b""
        if len(digest) != SIZES[name]:
            raise refused("put", INVALID_ARGUMENT, f"{name} must have {SIZES[name]} bytes, or twice as many hex digits")
        return name, digest
    return None


class Checksums(dict[str, bytes]):
    """Digests by name, also as attributes; an attribute is None if that digest isn't known."""

    @property
    def md5(self) -> bytes | None:
        return self.get("md5")

    @property
    def sha1(self) -> bytes | None:
        return self.get("sha1")

    @property
    def sha256(self) -> bytes | None:
        return self.get("sha256")

    @property
    def sha384(self) -> bytes | None:
        return self.get("sha384")

    @property
    def sha512(self) -> bytes | None:
        return self.get("sha512")

    def to_json(self) -> dict[str, str]:
        """Returns the known digests in hexadecimal."""
        return {name: digest.hex() for name, digest in self.items()}


class Digests:
    """Computes MD5, which becomes the entity tag, and the expected checksum, over bytes that arrive in pieces."""

    def __init__(self, wanted: tuple[str, bytes] | None = None) -> None:
        self._wanted = wanted
        names = {"md5"} if wanted is None else {"md5", wanted[0]}
        self._hashes: dict[str, Any] = {name: hashlib.new(name, usedforsecurity=False) for name in names}

    def update(self, data: bytes) -> None:
        for one in self._hashes.values():
            one.update(data)

    @property
    def etag(self) -> str:
        return str(self._hashes["md5"].hexdigest())

    def checked(self) -> dict[str, bytes]:
        """Returns all digests. Raises BadArgument if the content's checksum is not the expected one."""
        digests = {name: one.digest() for name, one in self._hashes.items()}
        if self._wanted is not None:
            name, wanted = self._wanted
            if digests[name] != wanted:
                more = f"expected {name} {wanted.hex()}, got {digests[name].hex()}"
                raise refused("put", BAD_DIGEST, more)
        return digests


def multipart_etag(etags: list[str]) -> str:
    """Returns the entity tag that S3 gives to a multipart upload: the MD5 of the parts' MD5s, and their number."""
    whole = hashlib.md5(b"".join(map(bytes.fromhex, etags)), usedforsecurity=False)
    return f"{whole.hexdigest()}-{len(etags)}"
