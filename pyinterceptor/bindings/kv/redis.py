"""A Redis or Valkey server, or a cluster of them, as a KV's engine.

Through redis-py, the client that Redis maintains, on a thread: calls that come together go out as one pipeline, which
makes it several times as fast as a client on Trio itself (coredis: 7 500 gets a second from 64 tasks, against 20 000).

The names are spread over 16 buckets. A bucket is a hash tag, so all of it is in one slot of a cluster and one script
changes value and index together (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/):
  {prefix:bucket}:v:<name>   the value, behind its metadata; it expires by itself
  {prefix:bucket}:names      a sorted set in the order of the names' bytes, which listings are merged from
  {prefix:bucket}:about      a hash: expiration and metadata of each, for listings
  {prefix:bucket}:until      a sorted set by expiration: dead names are removed by later writes
What is acknowledged is as safe as the server makes it: appendfsync, and maxmemory-policy noeviction.

A write carries the moment, in the server's clock, after which it does nothing: a server that was stopped and goes on
after we gave up leaves things as they were. Where a connection breaks before the answer, the write is repeated once; if
that fails too, it may or may not have been done.
"""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from heapq import merge
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import outcome
import trio

from pyinterceptor.bindings.jobs import Job, Jobs, open_jobs
from pyinterceptor.bindings.kv.engine import Entry, Listed
from pyinterceptor.bindings.kv.limits import METADATA, check_values
from pyinterceptor.errors import BindingError, PolicyError

try:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry
except ImportError as error:
    raise PolicyError("a KV on Redis needs redis-py; run: pip install 'pyinterceptor[redis]'") from error

FAILURES = (redis.RedisError, redis.exceptions.RedisClusterException, OSError)  # one isn't the other's kind
DEADLINE = 4.0  # seconds for a call
IN_TIME = 3.0  # seconds within which the server may begin a write: what is left is for the answer's way
BUCKETS = 16
NO_METADATA = 0xFFFFFFFF
LENGTH = struct.Struct("!I")
FRAMED = LENGTH.size + METADATA  # bytes beside a value, at most
TLS = ("rediss", "valkeys")

Command = tuple[Any, ...]

# KEYS: value, names, about, until. ARGV: deadline in ms, name, …  Each answers {done, now in ms}.
# What can be refused, for want of memory, comes first: after a script's first write nothing is.
BEGIN = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if now > tonumber(ARGV[1]) then return {0, now} end
"""
END = """
for _, dead in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', time[1], 'LIMIT', 0, 8)) do
  redis.call('ZREM', KEYS[2], dead)
  redis.call('HDEL', KEYS[3], dead)
  redis.call('ZREM', KEYS[4], dead)
end
return {1, now}
"""
PUT = f"""{BEGIN}
if ARGV[5] == '' then
  redis.call('SET', KEYS[1], ARGV[3])
  redis.call('ZREM', KEYS[4], ARGV[2])
else
  redis.call('SET', KEYS[1], ARGV[3], 'PXAT', ARGV[5] .. '000')
  redis.call('ZADD', KEYS[4], ARGV[5], ARGV[2])
end
redis.call('HSET', KEYS[3], ARGV[2], ARGV[4])
redis.call('ZADD', KEYS[2], 0, ARGV[2])
{END}"""
DELETE = f"""{BEGIN}
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('HDEL', KEYS[3], ARGV[2])
redis.call('ZREM', KEYS[4], ARGV[2])
{END}"""
CLOCK = """
local time = redis.call('TIME')
return time[1] * 1000 + math.floor(time[2] / 1000)
"""
# KEYS: names, about, until. ARGV: from, to (as ZRANGEBYLEX takes them), count. Answers name, about, name, about, …
LIST = """
local now, from, found = tonumber(redis.call('TIME')[1]), ARGV[1], {}
while #found < 2 * tonumber(ARGV[3]) do
  local some = redis.call('ZRANGEBYLEX', KEYS[1], from, ARGV[2], 'LIMIT', 0, ARGV[3])
  if #some == 0 then break end
  for _, name in ipairs(some) do
    local dies = redis.call('ZSCORE', KEYS[3], name)
    if (not dies or tonumber(dies) > now) and #found < 2 * tonumber(ARGV[3]) then
      found[#found + 1] = name
      found[#found + 1] = redis.call('HGET', KEYS[2], name)
    end
  end
  from = '(' .. some[#some]
end
return found
"""


class Place(NamedTuple):
    """What a URL says; `options` are redis-py's."""

    host: str
    port: int
    prefix: str
    options: dict[str, Any]


class Bucket:
    """The keys of one, and how many milliseconds the clock of its server is ahead of ours: as many, or more."""

    def __init__(self, tag: bytes) -> None:
        self.tag = tag
        self.index = [tag + b":names", tag + b":about", tag + b":until"]
        self.ahead: float | None = None

    def learn(self, now: float, sent: float) -> None:
        """The server's clock has shown `now` at a moment after `sent`, of ours. Never takes it for more ahead than it
        is: a write's deadline would come after its caller has given up."""
        least, most = now - _now(), now - sent
        self.ahead = least if self.ahead is None or self.ahead > most else max(self.ahead, least)


class Write(NamedTuple):
    """A script's, of one name; `begun` is when its caller came, in milliseconds of our clock."""

    script: str
    bucket: Bucket
    begun: float
    arguments: tuple[bytes, ...]  # the name first


@asynccontextmanager
async def open_redis(name: str, url: str) -> AsyncIterator[RedisEngine]:
    """Raises: PolicyError for the URL, BindingError where no server answers."""
    place = _place(name, url)
    where = f"KV {name}: redis at {place.host}:{place.port}"
    with _translated(where):
        client = await trio.to_thread.run_sync(_connect, place)
    # In a cluster, what goes to a node that hangs holds up nothing that goes to another: each bucket has its threads.
    lines = 1 if isinstance(client, redis.Redis) else BUCKETS
    async with AsyncExitStack() as stack:
        stack.push_async_callback(_close, client)
        reads = [await stack.enter_async_context(open_jobs(partial(_ask, client))) for _ in range(lines)]
        writes = [await stack.enter_async_context(open_jobs(partial(_write, client))) for _ in range(lines)]
        yield RedisEngine(where, place.prefix, reads, writes)


class RedisEngine:
    """Made by `open_redis`."""

    def __init__(self, where: str, prefix: str, reads: Sequence[Jobs], writes: Sequence[Jobs]) -> None:
        self._where = where
        self._buckets = [Bucket(b"{%b:%x}" % (prefix.encode(), number)) for number in range(BUCKETS)]
        self._reads = reads
        self._writes = writes

    async def get(self, keys: Sequence[bytes]) -> Sequence[Entry | None]:
        buckets = [_number(key) for key in keys]
        names = [self._buckets[one].tag + b":v:" + key for one, key in zip(buckets, keys, strict=True)]
        if len(keys) > 1:  # before they are read, which may be a hundred times as much
            sizes = await self._answers(buckets, [("STRLEN", name) for name in names])
            check_values(sum(max(0, size - FRAMED) for size in sizes))
        found = await self._answers(buckets, [("GET", name) for name in names])
        return [None if frame is None else _entry(frame) for frame in found]

    async def put(self, key: bytes, value: bytes, metadata: bytes | None, expiration: int | None) -> None:
        said = LENGTH.pack(NO_METADATA) if metadata is None else LENGTH.pack(len(metadata)) + metadata
        until = b"" if expiration is None else b"%d" % expiration
        about = until + (b" " if metadata is None else b" " + metadata)
        await self._change(PUT, key, said + value, about, until)

    async def delete(self, key: bytes) -> None:
        await self._change(DELETE, key)

    async def list(self, prefix: bytes, after: bytes, limit: int) -> Sequence[Listed]:
        begin = b"(" + after if after else b"[" + prefix
        end = b"(" + prefix + b"\xff" if prefix else b"+"  # no byte of UTF-8 is 0xff
        commands = [("EVAL", LIST, 3, *bucket.index, begin, end, limit) for bucket in self._buckets]
        pages = await self._answers(range(BUCKETS), commands)
        found = [map(_listed, page[::2], page[1::2]) for page in pages]
        return [*islice(merge(*found), limit)]

    async def _change(self, script: str, *arguments: bytes) -> None:
        number = _number(arguments[0])
        write = Write(script, self._buckets[number], _now(), arguments)
        with _translated(self._where), trio.fail_after(DEADLINE):
            is_done = await self._writes[number % len(self._writes)].run(write)
        if not is_done:
            raise BindingError(f"{self._where}: it did not answer in time", 504)

    async def _answers(self, buckets: Sequence[int], commands: Sequence[Command]) -> Sequence[Any]:
        """To each command, of a key in the bucket of the same place."""
        parted: dict[int, list[int]] = {}
        for place, bucket in enumerate(buckets):
            parted.setdefault(bucket % len(self._reads), []).append(place)
        found: list[Any] = [None] * len(commands)

        async def ask(line: int, places: Sequence[int]) -> None:
            some = [commands[place] for place in places]
            for place, answer in zip(places, await self._reads[line].run(some), strict=True):
                found[place] = answer

        with _translated(self._where), trio.fail_after(DEADLINE):
            if len(parted) == 1:
                await ask(*parted.popitem())
            else:
                async with trio.open_nursery() as nursery:
                    for line, places in parted.items():
                        nursery.start_soon(ask, line, places)
            for answer in found:
                if isinstance(answer, Exception):
                    raise answer
        return found


def _number(key: bytes) -> int:
    """Of its bucket."""
    return zlib.crc32(key) % BUCKETS


# --- on the threads ---------------------------------------------------------------------------------------------------


def _ask(client: Any, jobs: Sequence[Job]) -> None:
    """Each job is some commands, and its outcome their answers, or what failed; all go out at once."""
    answers = iter(_pipelined(client, [command for job in jobs for command in job.do]))
    for job in jobs:
        job.outcome = outcome.Value([*islice(answers, len(job.do))])


def _write(client: Any, jobs: Sequence[Job]) -> None:
    """Each job is a Write, and its outcome whether it was done."""
    _set_clocks(client, {job.do.bucket for job in jobs if job.do.bucket.ahead is None})
    sent = _now()
    for job, answer in zip(jobs, _pipelined(client, [_command(job.do) for job in jobs]), strict=True):
        if isinstance(answer, Exception):
            job.outcome = outcome.Error(answer)
        else:
            is_done, now = answer
            job.do.bucket.learn(now, sent)
            job.outcome = outcome.Value(bool(is_done))


def _set_clocks(client: Any, buckets: set[Bucket]) -> None:
    """By what their servers say. What fails here fails again, and is told, with the writes."""
    some = [*buckets]
    sent = _now()
    for bucket, now in zip(some, _pipelined(client, [("EVAL", CLOCK, 1, one.tag) for one in some]), strict=True):
        if isinstance(now, int):
            bucket.learn(now, sent)


def _command(write: Write) -> Command:
    bucket, name = write.bucket, write.arguments[0]
    deadline = int(write.begun + (bucket.ahead or 0) + IN_TIME * 1000)
    return "EVAL", write.script, 4, bucket.tag + b":v:" + name, *bucket.index, deadline, *write.arguments


def _pipelined(client: Any, commands: Sequence[Command]) -> Sequence[Any]:
    """The answer to each, or the exception that it is."""
    if not commands:
        return []
    try:
        with client.pipeline(transaction=False) if isinstance(client, redis.Redis) else client.pipeline() as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            answers: Sequence[Any] = pipeline.execute(raise_on_error=False)
            return answers
    except FAILURES as error:
        return [error] * len(commands)


def _now() -> float:
    """Milliseconds."""
    return time.monotonic() * 1000


# --- servers ----------------------------------------------------------------------------------------------------------


async def _close(client: Any) -> None:
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(client.close)


def _connect(place: Place) -> Any:
    client = redis.Redis(place.host, place.port, **place.options)
    if not client.info("cluster").get("cluster_enabled"):
        return client
    client.close()
    options = {name: value for name, value in place.options.items() if name != "db"}
    return redis.RedisCluster(place.host, place.port, **options)


def _place(name: str, url: str) -> Place:
    """Raises: PolicyError, which doesn't show the URL: it may hold a password."""
    wrong = f"binding {name}: its URL is not like redis://user:password@host:6379/0?prefix=kv"
    try:
        parts = urlsplit(url)
        given = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query), max_num_fields=10)
        host, port, database = parts.hostname, parts.port, int(parts.path.strip("/") or 0)
        prefix = given.pop("prefix", [name])[-1]
        prefix.encode()
    except ValueError:
        raise PolicyError(wrong) from None
    if not (host and prefix) or port == 0 or given or parts.fragment or set(prefix) & set("{}"):
        raise PolicyError(wrong)
    options: dict[str, Any] = {
        "db": database,
        "username": unquote(parts.username) if parts.username else None,
        "password": unquote(parts.password) if parts.password else None,
        "socket_timeout": IN_TIME,
        "socket_connect_timeout": IN_TIME,
        "retry": Retry(NoBackoff(), 1),
    }
    if parts.scheme in TLS:
        options["ssl"] = True
    return Place(host, 6379 if port is None else port, prefix, options)


@contextmanager
def _translated(where: str) -> Iterator[None]:
    """The client's errors as ours."""
    try:
        yield
    except (trio.TooSlowError, redis.TimeoutError, TimeoutError) as error:
        raise BindingError(f"{where}: it did not answer in time", 504) from error
    except redis.AuthenticationError as error:
        raise BindingError(f"{where}: {error}") from error
    except (redis.ConnectionError, redis.exceptions.RedisClusterException, OSError) as error:
        raise BindingError(f"{where}: can't be reached") from error
    except redis.RedisError as error:
        said = str(error)
        if isinstance(error, redis.OutOfMemoryError) or said.startswith(("OOM", "MISCONF")):
            raise BindingError(f"{where}: no space left there", 507) from error
        raise BindingError(f"{where}: {said}") from error


# --- what is kept -----------------------------------------------------------------------------------------------------


def _entry(frame: bytes) -> Entry:
    (length,) = LENGTH.unpack_from(frame)
    if length == NO_METADATA:
        return Entry(frame[LENGTH.size :], None)
    end = LENGTH.size + length
    return Entry(frame[end:], frame[LENGTH.size : end])


def _listed(key: bytes, about: bytes) -> Listed:
    until, _, metadata = about.partition(b" ")
    return Listed(key, int(until) if until else None, metadata or None)
