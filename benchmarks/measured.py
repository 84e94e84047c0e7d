"""A server that compare.py measures: `measured.py TREE INSTANCE`, with the package of TREE.

Uses only public names, so that the package's layout doesn't matter. Reads lines "OPERATION SECONDS". For each it runs
wrk in a container, and prints the nanoseconds of processor time that all threads of this process took, and the number
of operations.
"""

from __future__ import annotations

import re
import sys
import time
from typing import Any

import trio

ORIGIN = "http://203.0.113.10/ok"  # nginx in tests/world, by its address, so that no name is resolved
CORE = "1"  # of the clients; the same as bench.CLIENT_CORE
CONNECTIONS = 64
# Operation: the container's class, and wrk's arguments.
OPERATIONS = {
    "new connection, spliced": ("Passing", ["-H", "Connection: close", ORIGIN]),
    "request, followed splice": ("Ruled", [ORIGIN]),
    "request, handler": ("Ruled", ["http://my.kv/"]),
}


async def measure(boxes: dict[str, Any], line: str) -> None:
    operation, _, seconds = line.rpartition(" ")
    container, words = OPERATIONS[operation]
    argv = ["taskset", "-c", CORE, "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", *words]
    before = time.process_time_ns()
    finished = await boxes[container].exec(argv, check=True)
    spent = time.process_time_ns() - before
    said = finished.stdout.decode()
    made = re.search(r"(\d+) requests in", said)
    if made is None or "Non-2xx" in said or "Socket errors" in said:
        sys.exit(f"measured: {operation}: {said}")
    print(spent, made[1], flush=True)


async def main(tree: str, instance: str) -> None:
    sys.path.insert(0, tree)
    import pyinterceptor
    from pyinterceptor import App, Container, Response, open_interceptor

    assert str(pyinterceptor.__file__).startswith(f"{tree}/"), pyinterceptor.__file__

    class Passing(Container):
        """A container without rules."""

    class Ruled(Container):
        """A container with a handler for one name; all other traffic is passed through, and followed."""

    async def answer(request: Any, env: Any, ctx: Any) -> Response:
        return Response("ok")

    Ruled.outbound_by_host = {"my.kv": answer}
    async with open_interceptor(App(containers=[Passing, Ruled]), instance=instance) as interceptor:
        boxes = {cls.__name__: await interceptor.get_container(cls, "one") for cls in (Passing, Ruled)}
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            await measure(boxes, line.rstrip())


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
