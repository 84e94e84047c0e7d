"""`KV()`: the declaration of a namespace in an app, and the choice of its engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from pyinterceptor.arguments import check, check_each
from pyinterceptor.bindings.binding import EMBEDDED
from pyinterceptor.bindings.kv.namespace import Namespace
from pyinterceptor.bindings.kv.sqlite import open_sqlite
from pyinterceptor.bindings.quota import QUOTAS, Quota, Quotas, warn_uncounted
from pyinterceptor.errors import PolicyError

QUOTA = Quota(1024**3)  # of a namespace
REDIS = ("redis", "rediss", "valkey", "valkeys")  # with an s at the end: over TLS


@dataclass(frozen=True, slots=True)
class KV:
    """A namespace of keys and values: `App(bindings={"KV": KV()})`, then `await env.KV.get("key")` in a handler.

    Without a URL, or with "embedded:", the entries are kept in an SQLite file of the interceptor.
    `redis://[user:password@]host[:port][/database]` names a Redis or Valkey server, or any node of a cluster; `rediss`
    is the same over TLS; `valkey` and `valkeys` are synonyms. `?prefix=` sets the prefix of the keys on that server, by
    default the binding's name.

    `quota`: the most that the namespace may keep (default: 1 GiB and a million entries); a put beyond it raises
    BindingError (507). `per_container`: the most under the keys that begin with one `ctx.container_id`, for handlers
    that scope keys so; any 64 lowercase hexadecimal digits at the beginning of a key are taken for one. A server
    of Redis isn't counted: it has a limit of its own (maxmemory), and a quota that is given is reported at start as not
    enforced.
    """

    url: str = field(default=EMBEDDED, repr=False)  # it may hold a password
    quota: Quota | None = None
    per_container: Quota | None = None

    def __post_init__(self) -> None:
        check(isinstance(self.url, str), "KV", "url", "a str", type(self.url))  # its value may hold a password
        check_each("KV", QUOTAS, quota=self.quota, per_container=self.per_container)
        if self.url != EMBEDDED and _scheme(self.url) not in REDIS:
            raise PolicyError(f"a KV's URL must be {EMBEDDED} or begin with {', '.join(f'{one}://' for one in REDIS)}")

    def configured(self, text: str) -> KV:
        """The same binding on the engine of this URL."""
        return replace(self, url=text)

    @asynccontextmanager
    async def open(self, name: str, state: Path) -> AsyncIterator[Namespace]:
        """Opens the engine; yields the Namespace that handlers find in `env`. Raises PolicyError, BindingError."""
        if self.url == EMBEDDED:
            quotas = Quotas(f"KV {name}", self.quota or QUOTA, self.per_container)
            async with open_sqlite(state / "kv" / f"{name}.sqlite", quotas) as engine:
                yield Namespace(engine)
        else:
            from pyinterceptor.bindings.kv.redis import open_redis

            warn_uncounted(f"KV {name}", self.quota, self.per_container)
            async with open_redis(name, self.url) as remote:
                yield Namespace(remote)


def _scheme(url: str) -> str:
    try:
        return urlsplit(url).scheme
    except ValueError:
        return ""
