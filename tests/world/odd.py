"""Serves odd responses, each on a connection that is kept. Run inside the world: `python -m tests.world.odd PORT`.

A path is the name of a response, percent-encoded, or one of these:

/after         answers with the number of the request on its connection
/status/NUMBER answers with this status
/echo          answers with the number of its connection and of the request on it, a line, and the request as it came
/ignores       answers so too, but takes the content of the request for the next request
/upgrade       switches protocols, then sends back the content of the request and all further bytes, up to a line "exit"
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from urllib.parse import unquote

START = b"HTTP/1.1 200 OK\r\n"
CHUNKED = START + b"Transfer-Encoding: chunked\r\n\r\n"
PLAIN = START + b"Content-Length: 2\r\n\r\nok"
LONG = 300_000  # bytes; curl takes heads up to 300 KiB

# Responses whose length is in no doubt.
FRAMED = {
    "200 fields": START + b"X: y\r\n" * 200 + b"Content-Length: 2\r\n\r\nok",
    "many fields": START + b"X: y\r\n" * 1_000 + b"Content-Length: 2\r\n\r\nok",
    "100 KiB": START + (b"X: %b\r\n" % (b"v" * 1_000)) * 100 + b"Content-Length: 2\r\n\r\nok",
    "300 KiB": START
    + b"".join(b"X-%d: %b\r\n" % (at, b"v" * 290) for at in range(1_000))
    + b"Content-Length: 2\r\n\r\nok",
    "one field of 300 KiB": START + b"Set-Cookie: " + b"c" * LONG + b"\r\nContent-Length: 2\r\n\r\nok",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "folded": START + b"X: a\r\n b\r\nContent-Length: 2\r\n\r\nok",
    "odd names": START + b"Content-Length: 2\r\nBad Name: x\r\n: y\r\nno colon\r\nna\xc3\xafve: z\r\n\r\nok",
    "a space in a name": START + b"Content-Length: 2\r\nBad Name: x\r\n\r\nok",
    "control bytes": START + b"Content-Length: 2\r\nX: a\x00b\x07\x7f\rc\r\n\r\nok",
    "a control byte": START + b"X: a\x07b\r\nContent-Length: 2\r\n\r\nok",
    "equal lengths": START + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "an empty line behind": PLAIN + b"\r\n",
    "an empty line before": b"\r\n" + PLAIN,
    "padded chunk sizes": CHUNKED + b"2   \r\nok\r\n0 \r\n\r\n",
    "an odd trailer": CHUNKED + b"2\r\nok\r\n0\r\nBad Name: \x01\r\n folded\r\n\r\n",
    "identity": START + b"Transfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nok",
}
# Responses whose end is in doubt.
DOUBTFUL = {
    "coding and length": START + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "malformed chunks": CHUNKED + b"2\nok\n0\n\n",
    "lengths that differ": START + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "another protocol": b"HELLO there\r\n\r\nok",
    "an answer that nobody asked for": PLAIN + PLAIN,
}
# Responses with which the connection ends, or that only fetch() has to read.
OTHERS = {
    "ICY": b"ICY 200 OK\r\nicy-name: world\r\n\r\nok",
    "trailers": CHUNKED + b"2\r\nok\r\n0\r\nX-Checksum: abc\r\n\r\n",
}
RESPONSES = FRAMED | DOUBTFUL | OTHERS


SWITCHED = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
CONNECTIONS = itertools.count(1)


def answer(body: bytes, status: int = 200) -> bytes:
    return b"HTTP/1.1 %d Odd\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


async def content_of(head: bytes, reader: asyncio.StreamReader) -> bytes:
    """Reads the content of a request, as it is framed."""
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
    if b"transfer-encoding" not in fields:
        return await reader.readexactly(int(fields.get(b"content-length", 0)))
    return await reader.readuntil(b"0\r\n\r\n")


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    connection = next(CONNECTIONS)
    try:
        for number in itertools.count(1):
            head = await reader.readuntil(b"\r\n\r\n")
            path = unquote(head.split()[1].decode()).removeprefix("/")
            content = b"" if path == "ignores" else await content_of(head, reader)
            if path == "upgrade":
                writer.write(SWITCHED + content)
                while not content.endswith(b"exit\n") and (content := await reader.read(65536)):
                    writer.write(content)
                return
            if path == "after":
                writer.write(answer(b"request %d" % number))
            elif path.startswith("status/"):
                writer.write(answer(b"ok", int(path.removeprefix("status/"))))
            elif path in ("echo", "ignores"):
                writer.write(answer(b"%d %d\n" % (connection, number) + head + content))
            else:
                writer.write(RESPONSES[path])
                if path == "ICY":
                    return
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main(port: int) -> None:
    server = await asyncio.start_server(serve, None, port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
