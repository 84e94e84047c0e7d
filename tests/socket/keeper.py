"""A process that changes rules until a test kills it: `python -m tests.socket.keeper DIRECTORY FIRST`.

It prints each number before and after the call that sets it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import trio

from pyinterceptor import Container, Response
from pyinterceptor.serving.kept import open_kept
from tests.socket.interception import interception


class Keeping(Container):
    enable_internet = False


@Keeping.outbound_handlers
async def say(request: Any, env: Any, ctx: Any) -> Response:
    return Response(str(ctx.params))


async def main(directory: Path, first: int) -> None:
    async with interception([Keeping], kept=await open_kept(directory)) as here:
        container = here.interceptor.get_container(Keeping, "one")
        for number in range(first, first + 10**6):
            print("begun", number, flush=True)
            await container.set_outbound_by_hosts({"my.kv": ("say", number), "other.kv": ("say", number)})
            print("done", number, flush=True)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), int(sys.argv[2]))
