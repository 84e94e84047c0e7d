"""Many connections at once, as a program in a container: `python crowd.py TASK HOST PORT COUNT [SIZE]`.

upload: COUNT at a time send SIZE bytes each to the world's digest server, close their half, compare the answer's
count and hash; prints how many were right. idle: opens COUNT, says one byte on each and hears it back from the echo
server, prints "ready", and holds them until its input ends; then the same once more; prints how many were right.
"""

import asyncio
import hashlib
import sys

LIMIT = 100  # connections that are being opened at once


async def upload(host: str, port: int, size: int, number: int) -> bool:
    body = hashlib.sha256(str(number).encode()).digest() * (size // 32)
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(body)
    await writer.drain()
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer.decode() == f"{len(body)} {hashlib.sha256(body).hexdigest()}\n"


async def uploads(host: str, port: int, count: int, size: int) -> int:
    done = await asyncio.gather(*(upload(host, port, size, i) for i in range(count)), return_exceptions=True)
    for failure in {repr(one) for one in done if isinstance(one, BaseException)}:
        print(failure, file=sys.stderr)
    return sum(one is True for one in done)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    byte = b"\x00"  # nothing that could yet become HTTP
    writer.write(byte)
    return await reader.readexactly(1) == byte


async def idle(host: str, port: int, count: int) -> int:
    opening = asyncio.Semaphore(LIMIT)

    async def one() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with opening:
            made = await asyncio.open_connection(host, port, limit=4096)
            assert await echo(*made)
            return made

    held = await asyncio.gather(*(one() for _ in range(count)))
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    right = await asyncio.gather(*(echo(*made) for made in held), return_exceptions=True)
    for _, writer in held:
        writer.close()
    return sum(one is True for one in right)


def main() -> None:
    task, host, port, *numbers = sys.argv[1:]
    job = {"upload": uploads, "idle": idle}[task]
    print(asyncio.run(job(host, int(port), *map(int, numbers))))


main()
