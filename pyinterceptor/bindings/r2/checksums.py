"""The digests of what is put: what the caller expects, and what came. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from pyinterceptor.bindings.r2.refusals import BAD_DIGEST, INVALID_ARGUMENT, refused

SIZES = {"md5": 16, "sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}  # bytes


def expected(given: Mapping[str, bytes | str | None]) -> tuple[str, bytes] | None:
    """The one checksum that was given, by its name; as bytes or in hexadecimal.

    Raises: BadArgument, TypeError.
    """
    some = {name: value for name, value in given.items() if value is not None}
    if len(some) > 1:
        raise refused("put", INVALID_ARGUMENT, f"one checksum may be given, not {' and '.join(some)}")
    for name, value in some.items():
        if not isinstance(value, str | bytes | bytearray | memoryview):
            raise TypeError(f"put: {name} is bytes or hexadecimal text, not {type(value).__name__}")
        try:
            digest = bytes.fromhex(value) if isinstance(value, str) else bytes(value)
        except ValueError:
            digest = b""
        if len(digest) != SIZES[name]:
            raise refused("put", INVALID_ARGUMENT, f"{name} has {SIZES[name]} bytes, or twice as many hex digits")
        return name, digest
    return None


class Digests:
    """MD5, which makes the entity tag, and what else is expected, of bytes that come in pieces."""

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
        """All digests. Raises: BadArgument where it isn't the expected one."""
        digests = {name: one.digest() for name, one in self._hashes.items()}
        if self._wanted is not None:
            name, wanted = self._wanted
            if digests[name] != wanted:
                more = f"{name} {wanted.hex()} was given, {digests[name].hex()} came"
                raise refused("put", BAD_DIGEST, more)
        return digests


def multipart_etag(etags: list[str]) -> str:
    """As S3 makes it: the MD5 of the parts' MD5s, and how many they are."""
    whole = hashlib.md5(b"".join(map(bytes.fromhex, etags)), usedforsecurity=False)
    return f"{whole.hexdigest()}-{len(etags)}"
