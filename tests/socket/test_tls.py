"""fetch() over TLS: certificates and names are checked."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from pyinterceptor.errors import FetchError
from pyinterceptor.http.client import Client, open_client, verified_tls
from pyinterceptor.web import Request
from tests.socket.loopback import in_trio, open_hub, pair, plain
from tests.stream.dialogue import http
from tests.stream.origins import Unguarded


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Returns a self-signed certificate of my.kv, and its key."""
    directory = tmp_path_factory.mktemp("tls")
    made, key = directory / "tls.crt", directory / "tls.key"
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    argv += ["-keyout", str(key), "-out", str(made), "-subj", "/CN=my.kv", "-addext", "subjectAltName=DNS:my.kv"]
    subprocess.run(argv, check=True, capture_output=True)
    return made, key


@asynccontextmanager
async def client_of(certificate: tuple[Path, Path], context: ssl.SSLContext | None) -> AsyncIterator[Client]:
    """Yields a client. All its connections reach a server with this certificate, which always answers "ok"."""
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(*certificate)

    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        try:
            while await stream.receive_some(65536):
                await stream.send_all(http("HTTP/1.1 200 OK", "content-length: 2", body=b"ok"))
        except trio.BrokenResourceError:
            pass  # the client refused the certificate
        finally:
            await trio.aclose_forcefully(stream)

    async with open_hub() as hub, trio.open_nursery() as nursery:

        async def dial(host: str, port: int, local: bool, at: str | None) -> trio.abc.Stream:
            ours, theirs = pair()
            nursery.start_soon(serve, trio.SSLStream(plain(theirs), server_side, server_side=True))
            return hub.stream(ours)

        async with open_client(Unguarded(dial), ssl_context=context) as client:
            yield client


@in_trio
async def test_https_needs_a_trusted_certificate_of_the_hosts_name(certificate: tuple[Path, Path]) -> None:
    context = ssl.create_default_context(cafile=str(certificate[0]))
    async with client_of(certificate, context) as client:
        for _ in range(2):
            assert await (await client.fetch(Request("https://my.kv/"))).text() == "ok"
        with pytest.raises(FetchError, match=r"TLS with other\.kv:443: .*mismatch"):
            await client.fetch(Request("https://other.kv/"))


@in_trio
async def test_a_certificate_that_the_system_does_not_trust_is_refused(certificate: tuple[Path, Path]) -> None:
    async with client_of(certificate, None) as client:
        with pytest.raises(FetchError, match=r"TLS with my\.kv:443: .*certificate"):
            await client.fetch(Request("https://my.kv/"))
    assert verified_tls().verify_mode == ssl.CERT_REQUIRED
    assert verified_tls().check_hostname


@in_trio
async def test_a_peer_that_speaks_no_tls_is_an_error(certificate: tuple[Path, Path]) -> None:
    async with open_hub() as hub, trio.open_nursery() as nursery:

        async def dial(host: str, port: int, local: bool, at: str | None) -> trio.abc.Stream:
            ours, theirs = pair()
            stream = plain(theirs)
            nursery.start_soon(stream.send_all, http("HTTP/1.1 400 Bad Request", "content-length: 0"))
            streams.append(stream)
            return hub.stream(ours)

        streams: list[trio.SocketStream] = []
        async with open_client(Unguarded(dial)) as client:
            with pytest.raises(FetchError, match=r"TLS with my\.kv:443"):
                await client.fetch(Request("https://my.kv/"))
        for stream in streams:
            await stream.aclose()
