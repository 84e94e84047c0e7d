"""Makes many connections at once from inside a container: `python crowd.py TASK HOST PORT COUNT [SIZE]`.

upload: COUNT connections send SIZE bytes each to the world's digest server, close their sending side, and compare the
count and hash of the answer. It prints the number of right answers. idle: opens COUNT connections, exchanges one byte
with the echo server on each, prints "ready", and holds them until its input ends. Then it exchanges another byte on
each and prints the number of right answers. loop: makes COUNT connections, a few at a
time, each of which sends a byte, closes its sending side and reads the echo. It prints the number of right echoes.
"""

import asyncio
import hashlib
import sys

LOOPS = 8  # connections of `loop` at the same time
LIMIT = 100  # connections that are opened at the same time


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
    byte = b"\x00"  # a byte that no HTTP request begins with
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


async def loop(host: str, port: int, count: int) -> int:
    opening = asyncio.Semaphore(LOOPS)

    async def one() -> bool:
        async with opening:
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"\x00")
            writer.write_eof()
            answer = await reader.read()
            writer.close()
            return answer == b"\x00"

    done = await asyncio.gather(*(one() for _ in range(count)), return_exceptions=True)
    for failure in {repr(one) for one in done if isinstance(one, BaseException)}:
        print(failure, file=sys.stderr)
    return sum(one is True for one in done)


def main() -> None:
    task, host, port, *numbers = sys.argv[1:]
    job = {"upload": uploads, "idle": idle, "loop": loop}[task]
    print(asyncio.run(job(host, int(port), *map(int, numbers))))


main()
