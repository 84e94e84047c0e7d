"""A real store that speaks S3, on the loopback address: SeaweedFS, whose program is in a wheel.

Its keys are paths: what it would take for another key, the engine refuses.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.bindings.redis_servers import free_port, until

KEY, SECRET = "AKTEST", "SKTEST-s3cret"
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
BUCKET = "bucket"
WEED = str(Path(sys.executable).with_name("weed"))


class S3Server:
    """A process while the block lasts, with an empty bucket."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.endpoint = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._ports = {name: free_port() for name in ("master", "volume", "filer", "s3")}
        self.endpoint = f"http://127.0.0.1:{self._ports['s3']}"

    def url(self, prefix: str) -> str:
        return f"s3://{BUCKET}/{prefix}?endpoint={self.endpoint}"

    def __enter__(self) -> S3Server:
        credentials = {"accessKey": KEY, "secretKey": SECRET}
        identity = {"name": "test", "credentials": [credentials], "actions": ["Admin", "Read", "Write", "List"]}
        (self._directory / "s3.json").write_text(json.dumps({"identities": [identity]}))
        self.start()
        until(self._makes_bucket)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()

    def start(self) -> None:
        """Returns when it answers."""
        options = ["-s3", "-filer", "-volume", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={self._directory}"]
        options += [f"-{name}.port={port}" for name, port in self._ports.items()]
        options += [f"-s3.config={self._directory}/s3.json", "-s3.iam=false", "-s3.port.iceberg=0"]
        options += ["-master.telemetry=false", "-master.volumeSizeLimitMB=1024", "-volume.max=50"]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen([WEED, "-logtostderr", "server", *options], stderr=log, stdout=log)
        until(self.answers)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """It takes connections and says nothing, as one that hangs."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process.pid, signal.SIGCONT)

    def client(self) -> Any:
        config = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, connect_timeout=1)
        return botocore.session.Session().create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=self.endpoint,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            config=config,
        )

    def answers(self) -> bool:
        return self._can(lambda client: client.list_buckets())

    def _makes_bucket(self) -> bool:
        """It takes requests before it has where to keep anything."""

        def make(client: Any) -> None:
            if BUCKET not in [one["Name"] for one in client.list_buckets()["Buckets"]]:
                client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="probe", Body=b"x")
            client.delete_object(Bucket=BUCKET, Key="probe")

        return self._can(make)

    def _can(self, do: Any) -> bool:
        client = self.client()
        try:
            do(client)
            return True
        except (BotoCoreError, ClientError):
            return False
        finally:
            client.close()
