"""A real S3-compatible store: Ceph's RADOS gateway with its own monitor and one OSD, all on the loopback address.

The gateway may have another address. The store keeps objects in memory, is ready after about two seconds, and ends with
the block. Ceph 16 supports neither If-Match and If-None-Match of CompleteMultipartUpload, nor SHA checksums, nor NUL in
keys. It expects If-Match of PutObject without quotes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from botocore.session import Session

from tests.bindings.processes import PATIENCE, free_port, until

ACCESS, SECRET = "AKIDOFTHETESTS", "secret-of-the-tests"
# https://docs.ceph.com/en/pacific/rados/configuration/
CONFIGURATION = """
[global]
fsid = {fsid}
mon host = [v1:127.0.0.1:{monitor}]
public network = 127.0.0.0/8
ms bind msgr2 = false
auth cluster required = none
auth service required = none
auth client required = none
paxos propose interval = 0.05
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd crush chooseleaf type = 0
osd crush update on start = false
osd class update on start = false
osd objectstore = memstore
memstore device bytes = 16G
mon data avail crit = 1
mon data = {place}/mon
osd data = {place}/osd
run dir = {place}
admin socket =
log file = {place}/$name.log
mon cluster log file = {place}/cluster.log
[client.rgw]
rgw data = {place}/rgw
rgw frontends = beast endpoint={address}:{port} tcp_nodelay=1
rgw run sync thread = false
rgw enable quota threads = false
"""


class S3Server:
    """The store's processes, which run while the block lasts."""

    def __init__(self, place: Path, address: str = "127.0.0.1") -> None:
        self._place = place
        self._address = address
        self._started: list[subprocess.Popen[bytes]] = []
        self.port = free_port()
        self.endpoint = f"http://{address}:{self.port}"

    def __enter__(self) -> S3Server:
        monitor = free_port()
        fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
        for name in ("mon", "osd", "rgw"):
            (self._place / name).mkdir()
        text = CONFIGURATION.format(
            fsid=fsid, monitor=monitor, place=self._place, address=self._address, port=self.port
        )
        (self._place / "ceph.conf").write_text(text)
        monitors = str(self._place / "monmap")
        try:
            self._do("monmaptool", "--create", "--addv", "a", f"[v1:127.0.0.1:{monitor}]", "--fsid", fsid, monitors)
            self._do("ceph-mon", "-i", "a", "--mkfs", "--monmap", monitors)
            self._start("ceph-mon", "-i", "a", "-f")
            self._do("ceph", "osd", "new", osd)
            # The OSD would register itself too, but gives up if the monitor isn't ready for it.
            self._do("ceph", "osd", "crush", "add", "osd.0", "1.0", "root=default", "host=here")
            self._do("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
            self._start("ceph-osd", "-i", "0", "-f")
            self._user("tests", ACCESS)
            self.gateway = self._start("radosgw", "-n", "client.rgw", "-f")
            until(self.answers)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in reversed(self._started):
            process.kill()
            process.wait()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Suspends the store. The kernel still accepts connections, but none is answered, as if the store hung."""
        os.kill(self.gateway.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.gateway.pid, signal.SIGCONT)
            until(self.answers)

    @contextmanager
    def down(self) -> Iterator[None]:
        """Ends the gateway, so that its port refuses connections, and starts it again after the block."""
        self.gateway.kill()
        self.gateway.wait()
        self._started.remove(self.gateway)
        try:
            yield
        finally:
            self.gateway = self._start("radosgw", "-n", "client.rgw", "-f")
            until(self.answers)

    @contextmanager
    def settled(self) -> Iterator[None]:
        """Waits after the block until the requests of clients that were killed in it have ended.

        The gateway has a connection open until its request has ended, even if the client is gone.
        """
        before = self._sockets()
        yield
        until(lambda: self._sockets() <= before)

    def _sockets(self) -> int:
        count = 0
        for descriptor in Path(f"/proc/{self.gateway.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed since it was listed
                count += os.readlink(descriptor).startswith("socket:")
        return count

    def answers(self) -> bool:
        try:
            urllib.request.urlopen(self.endpoint, timeout=5).close()
        except urllib.error.HTTPError as error:
            error.close()
        except OSError:
            return False
        return True

    def url(self, bucket: str, prefix: str = "") -> str:
        return f"s3://{bucket}/{prefix}?endpoint={self.endpoint}"

    def client(self) -> Any:
        """Returns an S3 client that is independent of the engine's."""
        keys = {"aws_access_key_id": ACCESS, "aws_secret_access_key": SECRET}
        return Session().create_client("s3", region_name="us-east-1", endpoint_url=self.endpoint, **keys)

    def make_bucket(self, name: str) -> None:
        with closing(self.client()) as client:
            client.create_bucket(Bucket=name)

    def _user(self, name: str, key: str) -> None:
        keys = ["--access-key", key, "--secret-key", SECRET]
        self._do("radosgw-admin", "user", "create", "--uid", name, "--display-name", name, *keys)

    def _do(self, program: str, *arguments: str) -> None:
        argv = self._argv(program, *arguments)
        done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stdout + done.stderr

    def _start(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self._place / f"{program}.out").open("ab") as out:
            process = subprocess.Popen(self._argv(program, *arguments), stdout=out, stderr=out)
        self._started.append(process)
        return process

    def _argv(self, program: str, *arguments: str) -> list[str]:
        where = [] if program == "monmaptool" else ["-c", str(self._place / "ceph.conf")]
        return [program, *where, *arguments]
