"""An HTTP proxy for the tests, as a company's: CONNECT, and requests in absolute form, on connections that are kept.

Run inside the world: `python proxy.py PORT NAMES…`, each name as `HOST=ADDRESS`. It prints a line for each request: the
method and the host with its port. It reads a request line as leniently as proxies do.
"""

from __future__ import annotations

import asyncio
import sys
from urllib.parse import urlsplit

NAMES = dict(name.split("=") for name in sys.argv[2:])


async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def tunnel(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, far: tuple[asyncio.StreamReader, asyncio.StreamWriter]
) -> None:
    writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
    await asyncio.gather(pour(reader, far[1]), pour(far[0], writer))


async def forward(writer: asyncio.StreamWriter, head: bytes, path: str, host: str, port: int) -> None:
    near, far = await asyncio.open_connection(NAMES.get(host, host), port)
    method = head.split()[0]
    far.write(b"%b %b HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % (method, path.encode(), host.encode()))
    body = (await near.read()).partition(b"\r\n\r\n")[2]
    far.close()
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    await writer.drain()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while head := (await reader.readuntil(b"\r\n\r\n")).lstrip():
            method, target = (word.decode("latin-1") for word in head.split()[:2])
            url = urlsplit(f"//{target}" if method == "CONNECT" else target)
            if not url.hostname:
                writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                continue
            print(method, f"{url.hostname}:{url.port or 80}", flush=True)
            if method == "CONNECT":
                far = await asyncio.open_connection(NAMES.get(url.hostname, url.hostname), url.port)
                await tunnel(reader, writer, far)
                break
            await forward(writer, head, url.path, url.hostname, url.port or 80)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main() -> None:
    server = await asyncio.start_server(serve, None, int(sys.argv[1]))
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
