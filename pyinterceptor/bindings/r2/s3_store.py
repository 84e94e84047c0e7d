"""A bucket of an S3-compatible store: calls of botocore on threads, and the errors their answers stand for."""

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

CONNECTED = 2.0  # seconds for the store to take a connection, or the next byte of a body
ANSWERED = 4.0  # seconds for the store to send the next byte
THREADS = 16  # calls at once
BUSY = 8.0  # seconds without any answer of the store after which calls that wait for a thread fail
REGION = "us-east-1"  # stores with their own endpoint accept it
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
FAULTS |= {"RequestTimeout", "InvalidBucketName"}  # status 400, but not the fault of the arguments

TIMEOUTS = (botocore.exceptions.ReadTimeoutError, botocore.exceptions.ConnectTimeoutError)

T = TypeVar("T")


class StoreError(BindingError):
    """The store answered with an error. `http` is its HTTP status."""

    def __init__(self, message: str, http: int) -> None:
        super().__init__(message, 507 if http == 507 else 503)
        self.http = http


class Answer(dict[str, Any]):
    """A store's answer. Raises BindingError if a field is read that S3 demands and this store omits."""

    def __init__(self, asked: str, answer: Mapping[str, Any]) -> None:
        super().__init__(answer)
        self._asked = asked

    def __missing__(self, name: str) -> NoReturn:
        raise BindingError(f"{self._asked}: the answer has no {name}")


class Place(NamedTuple):
    """The parts of an R2Bucket's URL."""

    bucket: str
    prefix: str
    endpoint: str | None
    region: str


def place_of(name: str, url: str) -> Place:
    """Parses `s3://bucket[/prefix]?endpoint=http://host:port&region=…`. Without an endpoint, the store is AWS.

    Raises PolicyError.
    """
    parts = urlsplit(url)
    try:
        options = parse_qs(parts.query, keep_blank_values=True, strict_parsing=True) if parts.query else {}
    except ValueError:
        options = {"": []}
    wrong = PolicyError(f"R2 bucket {name}: the URL must have the form s3://bucket[/prefix]?endpoint=http://host:port&region=…")
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
    """A bucket of a store, made by `connect`.

    A call raises BadArgument if the store refuses its arguments, and BindingError for any other error.
    """

    def __init__(self, where: str, bucket: str, client: Any) -> None:
        self.where = where
        self._bucket = bucket
        self._client = client
        self._limiter = trio.CapacityLimiter(THREADS)
        self._answers = 0

    async def ask(self, method: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """Runs an operation of S3 on behalf of the bucket's `method`, which error messages name."""
        call = partial(getattr(self._client, operation), Bucket=self._bucket, **parameters)
        answer = await self.run(method, partial(until_asked_for, call, ANSWERED))
        return Answer(f"{self.where}: {method}", answer)

    async def run(self, method: str, call: Callable[[], T]) -> T:
        """Runs a blocking call on a thread. If cancelled, waits until the call ends, which its deadlines bound."""
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
        """Raises NotAskedFor if no thread becomes free and the store answers no call for BUSY seconds."""
        while True:
            answers = self._answers
            with trio.move_on_after(BUSY):  # bounds the wait for a thread; a call that has one isn't cancelled
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
        reason = {403: "access denied; check the credentials", 404: "not found"}.get(status, code)
        return StoreError(f"{self.where}: {method}: {reason} ({status})", 507 if code in FULL else status)

    def close(self) -> None:
        """Closes the idle connections. A body that is still being read keeps and closes its own."""
        self._client.close()


def _is_late(error: botocore.exceptions.BotoCoreError) -> bool:
    """Whether the error is a timeout. If one happens before or while a body is sent, urllib3 reports a closed
    connection and gives the timeout as the cause."""
    cause = error.kwargs.get("error")
    return isinstance(error, TIMEOUTS) or any(isinstance(one, TimeoutError) for one in getattr(cause, "args", ()))


def connect(name: str, place: Place) -> Store:
    """Makes the client. Blocks briefly, and sends nothing.

    Credentials are found as by the AWS tools (environment, ~/.aws), except that the machine's metadata service is not
    asked. Proxies of the environment are ignored. botocore must not retry: the second attempt of a conditional write
    could find the result of the first one, and report that the condition isn't met.
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
        # Many stores don't support checksums in trailers; all of them support Content-MD5.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    client = session.create_client("s3", region_name=place.region, endpoint_url=place.endpoint, config=config)
    hold_bodies(client)
    at = place.endpoint or f"AWS {place.region}"
    return Store(f"R2 bucket {name}: {place.bucket} at {at}", place.bucket, client)
