"""`R2Bucket()`: the declaration of a bucket in an app, and the choice of its engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pyinterceptor.bindings.binding import EMBEDDED
from pyinterceptor.bindings.r2.bucket import Bucket
from pyinterceptor.bindings.r2.files import open_files
from pyinterceptor.errors import PolicyError

S3 = "s3://"


@dataclass(frozen=True, slots=True)
class R2Bucket:
    """A bucket of objects: `App(bindings={"BUCKET": R2Bucket()})`, then `await env.BUCKET.get("key")` in a handler.

    Without a URL, or with "embedded:", the objects are kept in files of the interceptor.
    `s3://bucket[/prefix]?endpoint=…&region=…` names a bucket of any S3-compatible store; the interceptor reads its
    credentials from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in its own environment.
    """

    url: str = field(default=EMBEDDED, repr=False)

    def __post_init__(self) -> None:
        if self.url != EMBEDDED and not self.url.startswith(S3):
            raise PolicyError(f"an R2Bucket's URL must be {EMBEDDED} or begin with {S3}")

    def configured(self, text: str) -> R2Bucket:
        """The same binding on the engine of this URL."""
        return R2Bucket(text)

    @asynccontextmanager
    async def open(self, name: str, state: Path) -> AsyncIterator[Bucket]:
        """Opens the engine; yields the Bucket that handlers find in `env`. Raises PolicyError, BindingError."""
        if self.url == EMBEDDED:
            async with open_files(name, state / "r2" / name) as engine:
                yield Bucket(engine)
        else:
            from pyinterceptor.bindings.r2.s3 import open_s3

            async with open_s3(name, self.url) as remote:
                yield Bucket(remote)
