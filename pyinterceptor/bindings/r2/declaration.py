"""`R2Bucket()`: the declaration of a bucket in an app, and the choice of its engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from pyinterceptor.arguments import check, check_each, is_seconds
from pyinterceptor.bindings.binding import EMBEDDED
from pyinterceptor.bindings.quota import QUOTAS, Quota, Quotas, warn_uncounted
from pyinterceptor.bindings.r2.bucket import Bucket
from pyinterceptor.bindings.r2.files import KEPT, open_files
from pyinterceptor.errors import PolicyError

QUOTA = Quota(10 * 1024**3)  # of a bucket
S3 = "s3://"


@dataclass(frozen=True, slots=True)
class R2Bucket:
    """A bucket of objects: `App(bindings={"BUCKET": R2Bucket()})`, then `await env.BUCKET.get("key")` in a handler.

    Without a URL, or with "embedded:", the objects are kept in files of the interceptor.
    `s3://bucket[/prefix]?endpoint=…&region=…` names a bucket of any S3-compatible store; the interceptor reads its
    credentials from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in its own environment.

    `quota`: the most that the bucket may keep (default: 10 GiB and a million objects); uploads, and the bytes that
    other calls are writing, count too. A call beyond it raises BindingError (507). `per_container`: the most under the
    keys that begin with one `ctx.container_id`, for handlers that scope keys so; any 64 lowercase hexadecimal digits at
    the beginning of a key are taken for one. `uploads_kept`: seconds before an incomplete multipart upload is deleted.
    A store of S3 isn't counted, and deletes uploads by rules of its own; a quota that is given is reported at start as
    not enforced.
    """

    url: str = field(default=EMBEDDED, repr=False)
    quota: Quota | None = None
    per_container: Quota | None = None
    uploads_kept: float = KEPT

    def __post_init__(self) -> None:
        check(isinstance(self.url, str), "R2Bucket", "url", "a str", type(self.url))  # its value may hold a password
        check_each("R2Bucket", QUOTAS, quota=self.quota, per_container=self.per_container)
        check(is_seconds(self.uploads_kept), "R2Bucket", "uploads_kept", "seconds", self.uploads_kept)
        if self.url != EMBEDDED and not self.url.startswith(S3):
            raise PolicyError(f"an R2Bucket's URL must be {EMBEDDED} or begin with {S3}")

    def configured(self, text: str) -> R2Bucket:
        """The same binding on the engine of this URL."""
        return replace(self, url=text)

    @asynccontextmanager
    async def open(self, name: str, state: Path) -> AsyncIterator[Bucket]:
        """Opens the engine; yields the Bucket that handlers find in `env`. Raises PolicyError, BindingError."""
        if self.url == EMBEDDED:
            quotas = Quotas(f"R2 {name}", self.quota or QUOTA, self.per_container)
            async with open_files(state / "r2" / name, quotas, self.uploads_kept) as engine:
                yield Bucket(engine)
        else:
            from pyinterceptor.bindings.r2.s3 import open_s3

            warn_uncounted(f"R2 {name}", self.quota, self.per_container)
            async with open_s3(name, self.url) as remote:
                yield Bucket(remote)
