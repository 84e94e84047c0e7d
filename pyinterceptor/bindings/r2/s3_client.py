"""How a store that speaks S3 is reached, and what its errors mean."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from pyinterceptor.bindings.r2.refusals import (
    BAD_DIGEST,
    ENTITY_TOO_LARGE,
    ENTITY_TOO_SMALL,
    INVALID_OBJECT_NAME,
    INVALID_PART,
    INVALID_RANGE,
    METADATA_TOO_LARGE,
    NO_SUCH_UPLOAD,
    refused,
)
from pyinterceptor.errors import BindingError, PolicyError

try:
    import botocore.session
    from botocore import exceptions as fault
    from botocore.config import Config
except ImportError as error:
    raise PolicyError("an R2Bucket on S3 needs botocore; run: pip install 'pyinterceptor[s3]'") from error

SESSION = botocore.session.Session()  # reads what describes S3 once
CONNECT, READ = 3.0, 5.0  # seconds
ATTEMPTS = 2
CONNECTIONS = 64  # that are kept
CONFUSED = re.compile(r"(^|/)(\.{0,2})(/|$)|[\x00-\x1f\x7f]")  # what some stores take for another key
REFUSALS = {
    "BadDigest": BAD_DIGEST,
    "EntityTooLarge": ENTITY_TOO_LARGE,
    "EntityTooSmall": ENTITY_TOO_SMALL,
    "InvalidPart": INVALID_PART,
    "InvalidPartOrder": INVALID_PART,
    "InvalidRange": INVALID_RANGE,
    "416": INVALID_RANGE,
    "KeyTooLongError": INVALID_OBJECT_NAME,
    "MetadataTooLarge": METADATA_TOO_LARGE,
    "NoSuchUpload": NO_SUCH_UPLOAD,
}
UNMET = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
MISSING = {"NoSuchKey", "NotFound", "404"}
FULL = {"InsufficientStorage", "QuotaExceeded", "XMinioStorageFull", "507"}


class Missing(Exception):
    """The object isn't there."""


class Unmet(Exception):
    """The object isn't what the request was pinned to."""


class Place(NamedTuple):
    """What a URL says; `where` is for messages."""

    bucket: str
    prefix: str
    endpoint: str | None
    region: str
    where: str

    def name(self, method: str, key: str) -> str:
        """The key in the bucket. Raises: BadArgument for one that stores take for another."""
        end = key.rstrip("/") if key.endswith("/") and not key.endswith("//") else key  # "a/": so others make folders
        if CONFUSED.search(end):
            raise refused(method, INVALID_OBJECT_NAME, "stores that speak S3 don't keep it apart from other keys")
        return self.prefix + key


def place_of(name: str, url: str) -> Place:
    """Raises: PolicyError."""
    wrong = f"binding {name}: its URL is not like s3://bucket/prefix?endpoint=https://host&region=us-east-1"
    try:
        parts = urlsplit(url)
        given = parse_qs(parts.query, strict_parsing=bool(parts.query), max_num_fields=10)
        endpoint = given.pop("endpoint", [None])[-1]
        is_url = endpoint is None or (urlsplit(endpoint).scheme in ("http", "https") and urlsplit(endpoint).hostname)
    except ValueError:
        raise PolicyError(wrong) from None
    region = given.pop("region", ["us-east-1"])[-1]
    prefix = parts.path.strip("/")
    if not parts.netloc or "@" in parts.netloc or given or not is_url or CONFUSED.search(prefix or "x"):
        raise PolicyError(wrong)
    where = f"R2 {name}: bucket {parts.netloc} at {endpoint or 'Amazon'}"
    return Place(parts.netloc, prefix and f"{prefix}/", endpoint, region, where)


def connect(place: Place) -> Any:
    """A client whose keys are in our environment. Raises: PolicyError where they aren't."""
    keys = {name: os.environ.get(name.upper()) for name in ("aws_access_key_id", "aws_secret_access_key")}
    if missing := [name.upper() for name, value in keys.items() if not value]:
        raise PolicyError(f"{place.where}: {' and '.join(missing)} must be set in our environment")
    config = Config(
        connect_timeout=CONNECT,
        read_timeout=READ,
        max_pool_connections=CONNECTIONS,
        retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
        s3={"addressing_style": "path" if place.endpoint else "auto"},
        request_checksum_calculation="when_required",  # not every store knows the new ones
        response_checksum_validation="when_required",
    )
    token = os.environ.get("AWS_SESSION_TOKEN")
    return SESSION.create_client(
        "s3", region_name=place.region, endpoint_url=place.endpoint, config=config, aws_session_token=token, **keys
    )


@contextmanager
def translated(method: str, where: str) -> Iterator[None]:
    """The client's errors as ours."""
    try:
        yield
    except fault.ClientError as error:
        code = str(error.response.get("Error", {}).get("Code"))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if code in MISSING:
            raise Missing from error
        if code in UNMET:
            raise Unmet from error
        if code in REFUSALS:
            raise refused(method, REFUSALS[code]) from error
        if code in FULL or status == 507:
            raise BindingError(f"{where}: {method}: no space left there", 507) from error
        said = error.response.get("Error", {}).get("Message") or "refused"
        raise BindingError(f"{where}: {method}: {code}: {said}") from error
    except (fault.ReadTimeoutError, fault.ConnectTimeoutError) as error:
        raise BindingError(f"{where}: {method}: it did not answer in time", 504) from error
    except fault.EndpointConnectionError as error:
        raise BindingError(f"{where}: {method}: can't be reached") from error
    except fault.BotoCoreError as error:
        raise BindingError(f"{where}: {method}: {type(error).__name__}") from error
