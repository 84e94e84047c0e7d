"""The world's small servers, in one process: DNS (53), echo (7), digest (9), greeting (25), git's CGI (8080).

Run inside the world: `python services.py DIRECTORY`. echo sends back the bytes that it gets. digest reads to the end,
then answers with their number and SHA-256. greeting speaks first, as mail and SSH servers do, and then echoes.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

CHUNK = 256 * 1024  # bytes


class Names:
    """Answers DNS queries from names.json, which is read again when it changes, and logs each query."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "names.json"
        self._log = open(directory / "queries.log", "a", buffering=1)  # noqa: SIM115  # open until the process ends

    def answer(self, data: bytes) -> bytes:
        query = dns.message.from_wire(data)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        self._log.write(f"{name} {kind}\n")
        known = json.loads(self._file.read_text())
        response = dns.message.make_response(query, recursion_available=True)
        addresses = known["names"].get(name)
        if not addresses:
            response.set_rcode(dns.rcode.NXDOMAIN)
            return response.to_wire()
        wanted = {"A": ".", "AAAA": ":"}.get(kind)
        found = [one for one in addresses if wanted and ((":" in one) == (wanted == ":"))]
        if found:
            response.answer.append(dns.rrset.from_text_list(question.name, known["ttl"], "IN", kind, found))
        return response.to_wire()


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self, names: Names) -> None:
        self._names = names

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, peer: tuple[str, int]) -> None:
        self._transport.sendto(self._names.answer(data), peer)


def stream_of(names: Names):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(2), "big")
                answer = names.answer(await reader.readexactly(size))
                writer.write(len(answer).to_bytes(2, "big") + answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    return serve


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()
    except ConnectionError:
        writer.transport.abort()


async def digest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        count, sha256 = 0, hashlib.sha256()
        while data := await reader.read(CHUNK):
            count += len(data)
            sha256.update(data)
        writer.write(f"{count} {sha256.hexdigest()}\n".encode())
        writer.close()
        await writer.wait_closed()
    except ConnectionError:
        writer.transport.abort()


async def greeting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 the world greets first\r\n")
    await echo(reader, writer)


class Cgi(http.server.BaseHTTPRequestHandler):
    """Serves /git/… with git-http-backend(1). /upload answers with the size and SHA-256 of the request's body."""

    protocol_version = "HTTP/1.1"
    directory: Path

    def do_GET(self) -> None:
        self._git(b"")

    def do_PUT(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        body = self._body()
        if not self.path.startswith("/upload"):
            self._git(body)
            return
        answer = f"{len(body)} {hashlib.sha256(body).hexdigest()}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            continue  # trailers
        return body

    def _git(self, body: bytes) -> None:
        path, _, query = self.path.partition("?")
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.directory / "git"),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path.removeprefix("/git"),
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "REMOTE_USER": "world",
            "REMOTE_ADDR": self.client_address[0],
        }
        done = subprocess.run(
            ["git", "http-backend"], input=body, env=environment, stdout=subprocess.PIPE, check=True
        )
        head, _, answer = done.stdout.partition(b"\r\n\r\n")
        fields = [line.split(": ", 1) for line in head.decode().split("\r\n")]
        status = next((value for name, value in fields if name == "Status"), "200 OK")
        self.send_response(int(status.split()[0]))
        for name, value in fields:
            if name != "Status":
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


def listener(kind: socket.SocketKind, family: socket.AddressFamily, port: int) -> socket.socket:
    made = socket.socket(family, kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    made.bind(("", port))
    made.setblocking(False)
    return made


def dns_socket(address: str) -> socket.socket:
    """Returns a UDP socket bound to this address, so that answers come from it."""
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((address, 53))
    made.setblocking(False)
    return made


async def serve(directory: Path) -> None:
    loop, names = asyncio.get_running_loop(), Names(directory)
    for address in ("203.0.113.53", "2001:db8:1::53"):
        await loop.create_datagram_endpoint(lambda: Datagrams(names), sock=dns_socket(address))
    services = {53: stream_of(names), 7: echo, 9: digest, 25: greeting}
    for port, service in services.items():
        for family in (socket.AF_INET, socket.AF_INET6):
            await asyncio.start_server(
                service, sock=listener(socket.SOCK_STREAM, family, port), limit=CHUNK, backlog=8192
            )
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()


def main() -> None:
    directory = Path(sys.argv[1])
    Cgi.directory = directory
    cgi = http.server.ThreadingHTTPServer(("127.0.0.1", 8080), Cgi)
    threading.Thread(target=cgi.serve_forever, daemon=True).start()
    asyncio.run(serve(directory))


main()
