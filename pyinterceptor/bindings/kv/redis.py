"""The KV engine for a Redis or Valkey server, or a cluster.

The client is redis-py, which Redis maintains, on a thread. Concurrent calls are sent as one pipeline, which makes it
faster than a client on Trio's loop (64 tasks: 20 000 gets a second, against 7 500 with coredis).

Names are hashed into 16 buckets. A bucket is a hash tag, so all its keys are in one slot of a cluster, and one script
changes value and index together (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/):
  {prefix:bucket}:v:<name>   the metadata, then the value; Redis expires the key
  {prefix:bucket}:names      a sorted set of the names in byte order; a listing merges those of all buckets
  {prefix:bucket}:about      a hash from name to expiration and metadata, for listings
  {prefix:bucket}:until      a sorted set of the names by expiration; later writes remove the expired ones
An acknowledged write is as durable as the server's settings make it: appendfsync, and maxmemory-policy noeviction.

Each write carries a deadline in the server's clock, after which the server ignores it. So a server that was suspended,
and resumes after the caller has given up, changes nothing. If a connection breaks before the answer, the write is
repeated once; if that fails too, it may or may not have been done.
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

FAILURES = (redis.RedisError, redis.exceptions.RedisClusterException, OSError)  # none is a subclass of another
DEADLINE = 4.0  # seconds for a call
IN_TIME = 3.0  # seconds within which the server may begin a write; the rest of DEADLINE is left for the answer
BUCKETS = 16
NO_METADATA = 0xFFFFFFFF
LENGTH = struct.Struct("!I")
FRAMED = LENGTH.size + METADATA  # bytes, at most, that are stored before a value
TLS = ("rediss", "valkeys")

Command = tuple[Any, ...]

# KEYS: value, names, about, until. ARGV: deadline in ms, name, …  Each returns {done, now in ms}.
# The command that the server may refuse for lack of memory comes first: after a script's first write, none is refused.
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
# KEYS: names, about, until. ARGV: from, to (as ZRANGEBYLEX takes them), count. Returns name, about, name, about, …
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
    """The parts of a KV's URL. `options` are arguments of the redis-py client."""

    host: str
    port: int
    prefix: str
    options: dict[str, Any]


class Bucket:
    """A bucket: its hash tag, the keys of its index, and the offset of its server's clock.

    The server's clock is at least `ahead` milliseconds ahead of ours. None before the first answer.
    """

    def __init__(self, tag: bytes) -> None:
        self.tag = tag
        self.index = [tag + b":names", tag + b":about", tag + b":until"]
        self.ahead: float | None = None

    def learn(self, now: float, sent: float) -> None:
        """Updates `ahead`: the server's clock showed `now` at some moment after `sent`, which is a time of our clock.

        `ahead` must never be too large, or a write's deadline would be later than its caller gives up.
        """
        least, most = now - _now(), now - sent
        self.ahead = least if self.ahead is None or self.ahead > most else max(self.ahead, least)


class Write(NamedTuple):
    """A script that changes one name. `begun` is the time of the call, in milliseconds of our clock."""

    script: str
    bucket: Bucket
    begun: float
    arguments: tuple[bytes, ...]  # the name first


@asynccontextmanager
async def open_redis(name: str, url: str) -> AsyncIterator[RedisEngine]:
    """Connects to the server. Raises PolicyError if the URL is wrong, BindingError if no server answers."""
    place = _place(name, url)
    where = f"KV {name}: redis at {place.host}:{place.port}"
    with _translated(where):
        client = await trio.to_thread.run_sync(_connect, place)
    # In a cluster, each bucket has its own threads, so that a node that hangs doesn't delay calls to the others.
    lines = 1 if isinstance(client, redis.Redis) else BUCKETS
    async with AsyncExitStack() as stack:
        stack.push_async_callback(_close, client)
        reads = [await stack.enter_async_context(open_jobs(partial(_ask, client))) for _ in range(lines)]
        writes = [await stack.enter_async_context(open_jobs(partial(_write, client))) for _ in range(lines)]
        yield RedisEngine(where, place.prefix, reads, writes)


class RedisEngine:
    """The Engine made by `open_redis`."""

    def __init__(self, where: str, prefix: str, reads: Sequence[Jobs], writes: Sequence[Jobs]) -> None:
        self._where = where
        self._buckets = [Bucket(b"{%b:%x}" % (prefix.encode(), number)) for number in range(BUCKETS)]
        self._reads = reads
        self._writes = writes

    async def get(self, keys: Sequence[bytes]) -> Sequence[Entry | None]:
        buckets = [_number(key) for key in keys]
        names = [self._buckets[one].tag + b":v:" + key for one, key in zip(buckets, keys, strict=True)]
        if len(keys) > 1:  # sizes first: 100 values together may have a hundred times the limit
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
            raise BindingError(f"{self._where}: no answer in time", 504)

    async def _answers(self, buckets: Sequence[int], commands: Sequence[Command]) -> Sequence[Any]:
        """Returns the answer to each command. `buckets` holds the bucket of each command's key, in the same order."""
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
    """Returns the number of the key's bucket."""
    return zlib.crc32(key) % BUCKETS


# --- on the threads ---------------------------------------------------------------------------------------------------


def _ask(client: Any, jobs: Sequence[Job]) -> None:
    """A turn of reads, sent as one pipeline. `do` is a list of commands; the outcome is a list of answers, in which an
    exception stands for a command that failed."""
    answers = iter(_pipelined(client, [command for job in jobs for command in job.do]))
    for job in jobs:
        job.outcome = outcome.Value([*islice(answers, len(job.do))])


def _write(client: Any, jobs: Sequence[Job]) -> None:
    """A turn of writes. `do` is a Write; the outcome is False if the deadline had passed and nothing was done."""
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
    """Asks the buckets' servers for their clocks. Errors are ignored: the writes meet and report them again."""
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
    """Returns the answer to each command, or the exception that it failed with."""
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
    """Returns our monotonic clock, in milliseconds."""
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
    """Parses the URL. Raises PolicyError, whose message omits the URL because it may contain a password."""
    wrong = f"binding {name}: the URL must have the form redis://user:password@host:6379/0?prefix=kv"
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
    """Raises BindingError in place of an error of the client."""
    try:
        yield
    except (trio.TooSlowError, redis.TimeoutError, TimeoutError) as error:
        raise BindingError(f"{where}: no answer in time", 504) from error
    except redis.AuthenticationError as error:
        raise BindingError(f"{where}: {error}") from error
    except (redis.ConnectionError, redis.exceptions.RedisClusterException, OSError) as error:
        raise BindingError(f"{where}: can't connect") from error
    except redis.RedisError as error:
        said = str(error)
        if isinstance(error, redis.OutOfMemoryError) or said.startswith(("OOM", "MISCONF")):
            raise BindingError(f"{where}: no space left on the server", 507) from error
        raise BindingError(f"{where}: {said}") from error


# --- stored values ----------------------------------------------------------------------------------------------------


def _entry(frame: bytes) -> Entry:
    (length,) = LENGTH.unpack_from(frame)
    if length == NO_METADATA:
        return Entry(frame[LENGTH.size :], None)
    end = LENGTH.size + length
    return Entry(frame[end:], frame[LENGTH.size : end])


def _listed(key: bytes, about: bytes) -> Listed:
    until, _, metadata = about.partition(b" ")
    return Listed(key, int(until) if until else None, metadata or None)
