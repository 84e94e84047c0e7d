"""A bucket of a store that speaks S3, asked through botocore in threads, and what its answers mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, NoReturn, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

import trio

from pyinterceptor.bindings.r2.refusals import (
    ENTITY_TOO_LARGE,
    ENTITY_TOO_SMALL,
    INVALID_ARGUMENT,
    INVALID_OBJECT_NAME,
    INVALID_PART,
    INVALID_RANGE,
    METADATA_TOO_LARGE,
    NO_SUCH_UPLOAD,
    refused,
)
from pyinterceptor.errors import BindingError, PolicyError

try:
    import botocore.exceptions
    from botocore.config import Config
    from botocore.session import Session

    from pyinterceptor.bindings.r2.s3_continue import NotAskedFor, hold_bodies, until_asked_for
except ImportError as error:
    raise PolicyError("an R2Bucket on S3 needs botocore; run: pip install 'pyinterceptor[s3]'") from error

CONNECTED = 2.0  # seconds within which the store takes a connection
ANSWERED = 4.0  # seconds without a byte from the store that are too many; CONNECTED is the most without one to it
THREADS = 16  # calls at once
BUSY = 8.0  # seconds in which the store answers none of them: who waits for a thread gives up, too
REGION = "us-east-1"  # what stores with an endpoint of their own are content with
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
REFUSALS = {
    "KeyTooLongError": INVALID_OBJECT_NAME,
    "InvalidObjectName": INVALID_OBJECT_NAME,
    "MetadataTooLarge": METADATA_TOO_LARGE,
    "EntityTooSmall": ENTITY_TOO_SMALL,
    "EntityTooLarge": ENTITY_TOO_LARGE,
    "InvalidPart": INVALID_PART,
    "InvalidPartOrder": INVALID_PART,
    "InvalidRange": INVALID_RANGE,
    "NoSuchUpload": NO_SUCH_UPLOAD,
}
FULL = {"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull"}
FAULTS = {"AuthorizationHeaderMalformed", "BadDigest", "ExpiredToken", "IncompleteBody", "InvalidToken"}
FAULTS |= {"RequestTimeout", "InvalidBucketName"}  # of 400, but not for what was asked

TIMEOUTS = (botocore.exceptions.ReadTimeoutError, botocore.exceptions.ConnectTimeoutError)

T = TypeVar("T")


class StoreError(BindingError):
    """The store's own answer, with its HTTP status."""

    def __init__(self, message: str, http: int) -> None:
        super().__init__(message, 507 if http == 507 else 503)
        self.http = http


class Answer(dict[str, Any]):
    """What a store says. Raises: BindingError for what every store that speaks S3 says, and this one doesn't."""

    def __init__(self, asked: str, answer: Mapping[str, Any]) -> None:
        super().__init__(answer)
        self._asked = asked

    def __missing__(self, name: str) -> NoReturn:
        raise BindingError(f"{self._asked}: the answer has no {name}")


class Place(NamedTuple):
    """What a URL says."""

    bucket: str
    prefix: str
    endpoint: str | None
    region: str


def place_of(name: str, url: str) -> Place:
    """`s3://bucket[/prefix]?endpoint=http://host:port&region=…`; without an endpoint it is AWS's.

    Raises: PolicyError.
    """
    parts = urlsplit(url)
    try:
        options = parse_qs(parts.query, keep_blank_values=True, strict_parsing=True) if parts.query else {}
    except ValueError:
        options = {"": []}
    wrong = PolicyError(f"R2 bucket {name}: its URL is s3://bucket[/prefix]?endpoint=http://host:port&region=…")
    if not BUCKET.fullmatch(parts.netloc) or parts.fragment:
        raise wrong
    if options.keys() - {"endpoint", "region"} or any(len(values) != 1 or not values[0] for values in options.values()):
        raise wrong
    endpoint = options.get("endpoint", [None])[0]
    if endpoint is not None and not _is_endpoint(endpoint):
        raise wrong
    prefix = unquote(parts.path).removeprefix("/")
    if prefix and not prefix.endswith("/"):
        prefix += "/"
    return Place(parts.netloc, prefix, endpoint, options.get("region", [REGION])[0])


def _is_endpoint(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    plain = not (parts.username or parts.password or parts.query or parts.fragment)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and plain and port != 0


class Store:
    """Made by `connect`. Raises: BadArgument for what the store says is wrong with the question, else BindingError."""

    def __init__(self, where: str, bucket: str, client: Any) -> None:
        self.where = where
        self._bucket = bucket
        self._client = client
        self._limiter = trio.CapacityLimiter(THREADS)
        self._answers = 0

    async def ask(self, method: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """One of S3's operations, for a method of the bucket's."""
        call = partial(getattr(self._client, operation), Bucket=self._bucket, **parameters)
        answer = await self.run(method, partial(until_asked_for, call, ANSWERED))
        return Answer(f"{self.where}: {method}", answer)

    async def run(self, method: str, call: Callable[[], T]) -> T:
        """A call that blocks. It isn't left alone when cancelled: it ends within the deadline, and so do we."""
        try:
            result = await self._in_thread(call)
        except botocore.exceptions.ClientError as error:
            self._answers += 1
            raise self._refusal(method, error.response) from None
        except botocore.exceptions.NoCredentialsError as error:
            raise BindingError(f"{self.where}: no credentials: set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY") from error
        except NotAskedFor as error:
            raise BindingError(f"{self.where}: {method}: no answer in time", 504) from error
        except botocore.exceptions.BotoCoreError as error:
            if _is_late(error):
                raise BindingError(f"{self.where}: {method}: no answer in time", 504) from error
            raise BindingError(f"{self.where}: {method}: {type(error).__name__}") from error
        self._answers += 1
        return result

    async def _in_thread(self, call: Callable[[], T]) -> T:
        """Raises: NotAskedFor where none becomes free, of a store that hangs."""
        while True:
            answers = self._answers
            with trio.move_on_after(BUSY):  # for a thread: what has one isn't cancelled
                return await trio.to_thread.run_sync(call, limiter=self._limiter)
            if self._answers == answers:
                raise NotAskedFor

    def _refusal(self, method: str, response: Mapping[str, Any]) -> BindingError:
        status = response["ResponseMetadata"]["HTTPStatusCode"]
        code = str(response.get("Error", {}).get("Code", status))
        if code in REFUSALS:
            return refused(method, REFUSALS[code])
        if status == 400 and code not in FAULTS:
            return refused(method, INVALID_ARGUMENT, f"the store answers {code}")
        reason = {403: "the credentials are refused, or may not do it", 404: "it is not there"}.get(status, code)
        return StoreError(f"{self.where}: {method}: {reason} ({status})", 507 if code in FULL else status)

    def close(self) -> None:
        """Connections of bodies that are being read are theirs."""
        self._client.close()


def _is_late(error: botocore.exceptions.BotoCoreError) -> bool:
    """While a body is sent, or waited for to be asked for, urllib3 says that the connection was closed, and why."""
    cause = error.kwargs.get("error")
    return isinstance(error, TIMEOUTS) or any(isinstance(one, TimeoutError) for one in getattr(cause, "args", ()))


def connect(name: str, place: Place) -> Store:
    """Blocks for a moment; asks nobody.

    Credentials are looked for as the AWS tools do (environment, ~/.aws), but for the machine's metadata service, and
    proxies of the environment aren't used. Nothing is repeated: a repeated conditional write can meet its own first
    attempt, and say that it was not done.
    """
    session = Session()
    session.get_component("credential_provider").remove("iam-role")
    config = Config(
        connect_timeout=CONNECTED,
        read_timeout=ANSWERED,
        retries={"total_max_attempts": 1},
        max_pool_connections=THREADS,
        proxies={},
        s3={"addressing_style": "auto" if place.endpoint is None else "path"},
        # Checksums in trailers are news to many stores; Content-MD5 is known to all of them.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    client = session.create_client("s3", region_name=place.region, endpoint_url=place.endpoint, config=config)
    hold_bodies(client)
    at = place.endpoint or f"AWS {place.region}"
    return Store(f"R2 bucket {name}: {place.bucket} at {at}", place.bucket, client)
