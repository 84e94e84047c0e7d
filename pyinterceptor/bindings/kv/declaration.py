"""`KV()`: the declaration of a namespace in an app, and the choice of its engine."""

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

REDIS = ("redis", "rediss", "valkey", "valkeys")  # with an s at the end: over TLS


@dataclass(frozen=True, slots=True)
class KV:
    """A namespace of keys and values: `App(bindings={"KV": KV()})`, then `await env.KV.get("key")` in a handler.

    Without a URL, or with "embedded:", the entries are kept in an SQLite file of the interceptor.
    `redis://[user:password@]host[:port][/database]` names a Redis or Valkey server, or any node of a cluster; `rediss`
    is the same over TLS; `valkey` and `valkeys` are synonyms. `?prefix=` sets the prefix of the keys on that server, by
    default the binding's name.
    """

    url: str = field(default=EMBEDDED, repr=False)  # it may hold a password

    def __post_init__(self) -> None:
        if self.url != EMBEDDED and _scheme(self.url) not in REDIS:
            raise PolicyError(f"a KV's URL must be {EMBEDDED} or begin with {', '.join(f'{one}://' for one in REDIS)}")

    def configured(self, text: str) -> KV:
        """The same binding on the engine of this URL."""
        return KV(text)

    @asynccontextmanager
    async def open(self, name: str, state: Path) -> AsyncIterator[Namespace]:
        """Opens the engine; yields the Namespace that handlers find in `env`. Raises PolicyError, BindingError."""
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
