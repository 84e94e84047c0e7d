"""The owner of a container, to be killed by a test: `owner.py INSTANCE`.

Runs a container with traffic in it, prints the pid of the container's first process, and waits to be killed.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Any

import trio

from pyinterceptor import App, Container, Response, open_interceptor

TRAFFIC = "while :; do curl -s -o /dev/null http://v4.origin.test/ok http://v6.origin.test/ok http://my.kv/ ; done"


class Sandbox(Container):
    """Has a handler, and the internet."""


@Sandbox.outbound_by_host("my.kv")
async def answer(request: Any, env: Any, ctx: Any) -> Response:
    return Response(endless() if request.url.path == "/endless" else "handled\n")


async def endless() -> AsyncIterator[bytes]:
    yield b"the beginning\n"
    await trio.sleep_forever()


async def main(instance: str) -> None:
    async with open_interceptor(App(containers=[Sandbox]), instance=instance) as interceptor:
        container = await interceptor.get_container(Sandbox)
        await container.start(["sh", "-c", TRAFFIC])
        print(container.pid, flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
