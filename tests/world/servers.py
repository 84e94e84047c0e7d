"""The world's servers: their configuration, their processes and their content.

This module starts each process, and ends it by its process id.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]
PAGE = b"<!doctype html><title>origin</title><p>This page comes from a real nginx.\n"
LARGE = 200 * 1024 * 1024  # bytes of /large.bin
BLOCK = 1024 * 1024  # bytes; no two blocks of the file are equal
PORTS = {
    "ssh": 22,
    "dns": 53,
    "http": 80,
    "https": 443,
    "redis": 6379,
    "echo": 7,
    "digest": 9,
    "greeting": 25,
}

ORIGIN = ("203.0.113.10", "2001:db8:1::10")
OTHER = ("198.51.100.20", "2001:db8:2::20")
NAMES: dict[str, tuple[str, ...]] = {
    "origin.test": ORIGIN,
    "other.test": OTHER,
    "v4.origin.test": ORIGIN[:1],
    "v6.origin.test": ORIGIN[1:],
    "halfdead.test": (ORIGIN[0], "2001:db8:dead::1"),  # its IPv6 address never answers
    "inside.test": ("127.0.0.1", "::1"),
    "mapped.test": ("::ffff:127.0.0.1",),
    "nat64.test": ("64:ff9b::7f00:1",),
}

NGINX = """
daemon off; master_process off; worker_processes 1; pid {directory}/nginx.pid;
error_log {directory}/nginx.log; worker_rlimit_nofile 16000;
events {{ worker_connections 8000; }}
http {{
  access_log {directory}/access.log;
  default_type text/html; sendfile on; tcp_nopush on; keepalive_requests 1000000;
  client_max_body_size 0;
  client_body_temp_path {directory}/t1; proxy_temp_path {directory}/t2;
  fastcgi_temp_path {directory}/t3; uwsgi_temp_path {directory}/t4; scgi_temp_path {directory}/t5;
  server {{
    listen 80 backlog=8192; listen [::]:80 backlog=8192;
    listen 443 ssl; listen [::]:443 ssl;
    ssl_certificate {directory}/tls.crt; ssl_certificate_key {directory}/tls.key;
    root {directory}/www;
    location = /who {{
      default_type text/plain;
      return 200 "$host $server_addr $remote_addr $request_method\\n";
    }}
    location = /ok {{ default_type text/plain; access_log off; return 200 "ok"; }}
    location = /redirect {{ return 302 $arg_to; }}
    proxy_http_version 1.1;
    location /upload {{ proxy_pass http://127.0.0.1:8080; proxy_request_buffering off; }}
    location /git/ {{ proxy_pass http://127.0.0.1:8080; proxy_buffering off; }}
  }}
  {vhosts}
}}
"""

SSHD = """
ListenAddress 0.0.0.0
ListenAddress ::
Port 22
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/client_key.pub
PidFile none
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UsePAM no
PrintMotd no
"""


class Servers:
    """The servers. Entering starts them with `popen`, which chooses the namespace; leaving ends them.

    `vhosts`: more `server {…}` blocks for nginx's http section.
    """

    def __init__(
        self, directory: Path, popen: Callable[..., subprocess.Popen[bytes]], vhosts: str = ""
    ) -> None:
        self._directory = directory
        self._popen = popen
        self._vhosts = vhosts
        self._names = dict(NAMES)
        self._stack = ExitStack()

    @property
    def ports(self) -> list[int]:
        """The servers' TCP ports."""
        return list(PORTS.values())

    @property
    def ssh_key(self) -> Path:
        """The path of the private key that sshd accepts for root."""
        return self._directory / "client_key"

    @property
    def certificate(self) -> Path:
        """The path of nginx's self-signed certificate for every name under .test."""
        return self._directory / "tls.crt"

    @property
    def large_sha256(self) -> str:
        """The SHA-256 of /large.bin, in hexadecimal."""
        return large_digest()

    def __enter__(self) -> Servers:
        directory = self._directory
        self._write_names(300)
        self._files()
        (directory / "nginx.conf").write_text(NGINX.format(directory=directory, vhosts=self._vhosts))
        (directory / "sshd.conf").write_text(SSHD.format(directory=directory))
        redis = [
            "redis-server",
            "--port",
            "6379",
            "--protected-mode",
            "no",
            "--save",
            "",
            "--dir",
            str(directory),
        ]
        services = [sys.executable, str(Path(__file__).with_name("services.py")), str(directory)]
        with ExitStack() as stack:
            for argv in (
                ["nginx", "-p", str(directory), "-c", str(directory / "nginx.conf")],
                [
                    str(shutil.which("sshd", path="/usr/sbin:/sbin:/usr/bin")),
                    "-D",
                    "-e",
                    "-f",
                    f"{directory}/sshd.conf",
                ],
                [*redis, "--bind", "0.0.0.0", "::"],
                services,
            ):
                log = stack.enter_context(open(directory / f"{Path(argv[0]).name}.out", "wb"))
                process = self._popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
                stack.callback(end, process)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def name(self, name: str, addresses: Iterable[str], ttl: int) -> None:
        """Changes the DNS server's answers for a name. The server reads them again at its next query."""
        self._names[name] = tuple(addresses)
        self._write_names(ttl)

    def queries(self) -> list[tuple[str, str]]:
        lines = (self._directory / "queries.log").read_text().splitlines()
        return [(name, kind) for name, _, kind in (line.partition(" ") for line in lines)]

    def _write_names(self, ttl: int) -> None:
        written = self._directory / "names.new"
        written.write_text(json.dumps({"ttl": ttl, "names": self._names}))
        os.replace(written, self._directory / "names.json")
        (self._directory / "queries.log").touch()

    def _files(self) -> None:
        directory, www = self._directory, self._directory / "www"
        www.mkdir()
        (www / "index.html").write_bytes(PAGE)
        (www / "large.bin").symlink_to(large_file())
        for name in ("host_key", "client_key"):
            call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name))
        self._certificate()
        self._repository()

    def _certificate(self) -> None:
        key, names = str(self._directory / "tls.key"), "DNS:*.test,DNS:*.origin.test"
        call(
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", key, "-out", str(self.certificate), "-days", "2"),
            *("-subj", "/CN=the world", "-addext", f"subjectAltName={names}"),
        )

    def _repository(self) -> None:
        """Makes git/project.git, with one commit, whose file has the text "cloned from the world"."""
        work, bare = self._directory / "work", self._directory / "git" / "project.git"
        call("git", "init", "-q", "-b", "main", str(work))
        (work / "file.txt").write_text("cloned from the world\n")
        call("git", "-C", str(work), "add", ".")
        author = ["-c", "user.name=World", "-c", "user.email=world@origin.test"]
        call("git", "-C", str(work), *author, "commit", "-q", "-m", "The only commit")
        call("git", "clone", "-q", "--bare", str(work), str(bare))
        call("git", "-C", str(bare), "config", "http.receivepack", "true")


def large_file() -> Path:
    """Returns the path of a file of 200 MiB that is incompressible and doesn't repeat. It is kept in build/."""
    kept = ROOT / "build" / "world" / "large.bin"
    if not kept.is_file() or kept.stat().st_size != LARGE:
        kept.parent.mkdir(parents=True, exist_ok=True)
        block, digest = random.Random(1).randbytes(BLOCK - 8), hashlib.sha256()
        new = kept.with_name(f"large.{os.getpid()}")
        with open(new, "wb") as out:
            for number in range(LARGE // BLOCK):
                piece = number.to_bytes(8, "big") + block
                digest.update(piece)
                out.write(piece)
        kept.with_suffix(".sha256").write_text(digest.hexdigest())
        os.replace(new, kept)
    kept.chmod(0o644)
    return kept


def large_digest() -> str:
    return large_file().with_suffix(".sha256").read_text()


def call(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr.strip()}"


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
