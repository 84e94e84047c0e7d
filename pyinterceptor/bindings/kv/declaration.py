"""`KV()` of an app: which engine keeps it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pyinterceptor.bindings.binding import EMBEDDED
from pyinterceptor.bindings.kv.namespace import Namespace
from pyinterceptor.bindings.kv.sqlite import open_sqlite
from pyinterceptor.errors import PolicyError

REDIS = ("redis", "rediss", "valkey", "valkeys")  # the s: over TLS


@dataclass(frozen=True, slots=True)
class KV:
    """A namespace of keys and values: `App(bindings={"KV": KV()})`, then `await env.KV.get("key")` in a handler.

    Without a URL, or with "embedded:", it is an SQLite file of ours. `redis://[user:password@]host[:port][/database]`
    is a Redis or Valkey server, or any node of a cluster; `rediss` the same over TLS, `valkey` and `valkeys` other
    words for them. `?prefix=` is what its keys begin with there, by default the binding's name.
    """

    url: str = field(default=EMBEDDED, repr=False)  # it may hold a password

    def __post_init__(self) -> None:
        if self.url != EMBEDDED and _scheme(self.url) not in REDIS:
            raise PolicyError(f"a KV's URL is {EMBEDDED} or begins with {', '.join(f'{one}://' for one in REDIS)}")

    def configured(self, text: str) -> KV:
        return KV(text)

    @asynccontextmanager
    async def open(self, name: str, state: Path) -> AsyncIterator[Namespace]:
        if self.url == EMBEDDED:
            async with open_sqlite(name, state / "kv" / f"{name}.sqlite") as engine:
                yield Namespace(engine)
        else:
            from pyinterceptor.bindings.kv.redis import open_redis

            async with open_redis(name, self.url) as remote:
                yield Namespace(remote)


def _scheme(url: str) -> str:
    try:
        return urlsplit(url).scheme
    except ValueError:
        return ""
